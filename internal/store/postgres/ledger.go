package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres/sqlc"
	"github.com/firerunner/firerunner/internal/store/row"
)

var _ firerunner.Ledger = (*Store)(nil)

// inTx runs do within an Update: one writer at a time, and a commit that survives a crash. What these functions do can be
// done again, so it is where it met others.
func (s *Store) inTx(ctx context.Context, do func(ctx context.Context, t *tx) error) error {
	for attempt := 1; ; attempt++ {
		err := s.Update(ctx, func(tx firerunner.Tx) error {
			t, err := s.own(tx)
			if err != nil {
				return err
			}
			ctx, err := t.begin(ctx)
			if err != nil {
				return err
			}
			return do(ctx, t)
		})
		if err == nil || attempt == beginAttempts || !repeatable(err) {
			return err
		}
	}
}

func (s *Store) own(any firerunner.Tx) (*tx, error) {
	t, ok := any.(*tx)
	if !ok {
		return nil, firerunner.Errorf(firerunner.Internal, "the store's transaction is a %T", any)
	}
	return t, nil
}

// SaveVM implements firerunner.Ledger.
func (s *Store) SaveVM(ctx context.Context, vm firerunner.LedgerVM) error {
	return s.inTx(ctx, func(ctx context.Context, t *tx) error {
		return wrap(t.q.VMUpsert(ctx, sqlc.VMUpsertParams{
			ID: vm.ID, Driver: vm.Driver, Host: vm.Host, Ref: row.Text(vm.Ref), Token: vm.Token[:], Session: vm.Session[:],
			UsedAt: row.Micros(vm.UsedAt), CreatedAt: row.Micros(vm.CreatedAt), Deadline: row.Micros(vm.Deadline),
		}), "save microVM %q", vm.ID)
	})
}

// VM implements firerunner.Ledger.
func (s *Store) VM(ctx context.Context, id string) (firerunner.LedgerVM, error) {
	found, err := once(ctx, s.reader, func(ctx context.Context) (sqlc.VM, error) { return s.q.VM(ctx, id) })
	if err != nil {
		return firerunner.LedgerVM{}, wrap(err, "read microVM %q", id)
	}
	return vmFromRow(found), nil
}

// VMs implements firerunner.Ledger.
func (s *Store) VMs(ctx context.Context, driver string) ([]firerunner.LedgerVM, error) {
	return ask(ctx, s.reader, "microVMs", func(ctx context.Context) ([]sqlc.VM, error) { return s.q.VMsOf(ctx, driver) }, vmFromRow)
}

// UseToken implements firerunner.Ledger. One statement decides, in one transaction at a time.
func (s *Store) UseToken(ctx context.Context, id string, session [32]byte, at time.Time) (first bool, err error) {
	if at.IsZero() {
		return false, firerunner.Errorf(firerunner.Invalid, "use the token of microVM %q: no time is given", id)
	}
	err = s.inTx(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.q.VMUseToken(ctx, sqlc.VMUseTokenParams{Session: session[:], UsedAt: row.Micros(at), ID: id})
		if err != nil {
			return wrap(err, "use the token of microVM %q", id)
		}
		if first = n == 1; first {
			return nil
		}
		_, err = t.q.VM(ctx, id)
		return wrap(err, "use the token of microVM %q", id)
	})
	return first && err == nil, err
}

// AddReport implements firerunner.Ledger.
func (s *Store) AddReport(ctx context.Context, id string, number int64, r firerunner.GuestReport) (added bool, err error) {
	if err := row.CheckReport(id, number, r); err != nil {
		return false, err
	}
	err = s.inTx(ctx, func(ctx context.Context, t *tx) (err error) {
		added, err = s.addReport(ctx, t, id, number, r)
		return err
	})
	return added && err == nil, err
}

func (s *Store) addReport(ctx context.Context, t *tx, id string, number int64, r firerunner.GuestReport) (bool, error) {
	known, err := t.q.VM(ctx, id)
	if err != nil {
		return false, wrap(err, "report of microVM %q", id)
	}
	if r.At.IsZero() {
		r.At = s.config.Now()
	}
	vm := row.VM(known)
	reports, added, changed, err := vm.Take(number, r)
	if err != nil || !changed {
		return false, err
	}
	for _, report := range reports {
		if err := t.q.ReportInsert(ctx, sqlc.ReportInsertParams(report)); err != nil {
			return false, wrap(err, "report of microVM %q", id)
		}
	}
	_, err = t.q.VMReported(ctx, sqlc.VMReportedParams{
		Seq: vm.Seq, Number: vm.Number, Exited: vm.Exited, Bytes: vm.Bytes, Dropped: vm.Dropped, ID: id,
	})
	return added, wrap(err, "report of microVM %q", id)
}

// Reports implements firerunner.Ledger.
func (s *Store) Reports(ctx context.Context, id string, after int64) ([]firerunner.GuestReport, error) {
	return ask(ctx, s.reader, "reports", func(ctx context.Context) ([]sqlc.VMReport, error) {
		return s.q.ReportsAfter(ctx, sqlc.ReportsAfterParams{VMID: id, After: after})
	}, reportFromRow)
}

// ForgetVM implements firerunner.Ledger.
func (s *Store) ForgetVM(ctx context.Context, id string) error {
	return s.inTx(ctx, func(ctx context.Context, t *tx) error {
		return wrap(errors.Join(t.q.ReportsDelete(ctx, id), t.q.VMDelete(ctx, id)), "forget microVM %q", id)
	})
}

func vmFromRow(r sqlc.VM) firerunner.LedgerVM              { return row.VM(r).LedgerVM() }
func reportFromRow(r sqlc.VMReport) firerunner.GuestReport { return row.VMReport(r).GuestReport() }
