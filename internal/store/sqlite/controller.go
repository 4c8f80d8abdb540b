package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/row"
	"github.com/firerunner/firerunner/internal/store/sqlite/sqlc"
)

var _ firerunner.Registry = (*Store)(nil)

// LeasesOf implements firerunner.Leases.
func (s *Store) LeasesOf(ctx context.Context, prefix string) ([]firerunner.Lease, error) {
	now := row.Micros(s.config.Now()) // the machine's, because the database is a file of it
	return ask(ctx, s.reader, "leases", func(ctx context.Context) ([]sqlc.Lease, error) {
		return s.q.LeasesFrom(ctx, sqlc.LeasesFromParams{First: prefix, Past: row.After(prefix)})
	}, func(l sqlc.Lease) firerunner.Lease { return row.Lease(l).Seen(now) })
}

// SaveController implements firerunner.Registry.
func (s *Store) SaveController(ctx context.Context, c firerunner.Controller) error {
	return s.inTx(ctx, func(ctx context.Context, t *tx) error {
		return wrap(t.q.ControllerSave(ctx, sqlc.ControllerSaveParams(row.FromController(c))), "save controller %q", c.Name)
	})
}

// Controllers implements firerunner.Registry.
func (s *Store) Controllers(ctx context.Context) ([]firerunner.Controller, error) {
	return ask(ctx, s.reader, "controllers", s.q.Controllers, func(c sqlc.Controller) firerunner.Controller {
		return row.Controller(c).Controller()
	})
}

// ForgetController implements firerunner.Registry.
func (s *Store) ForgetController(ctx context.Context, name string) error {
	return s.inTx(ctx, func(ctx context.Context, t *tx) error {
		return wrap(t.q.ControllerDelete(ctx, name), "forget controller %q", name)
	})
}

// Installation implements firerunner.Registry.
func (s *Store) Installation(ctx context.Context, proposed string) (installation string, err error) {
	err = s.inTx(ctx, func(ctx context.Context, t *tx) error {
		if proposed != "" {
			if err := t.q.SiteSet(ctx, sqlc.SiteSetParams{Key: row.SiteInstallation, Value: proposed}); err != nil {
				return wrap(err, "write the installation's mark")
			}
		}
		installation, err = t.q.Site(ctx, row.SiteInstallation)
		if errors.Is(err, sql.ErrNoRows) {
			return firerunner.Errorf(firerunner.NotFound, "this site has no mark yet")
		}
		return wrap(err, "read the installation's mark")
	})
	return installation, err
}
