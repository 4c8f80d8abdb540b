package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// Several daemons beside each other: what makes a site one of several controllers of one database and one GitLab.

// truth is what is read of a site's database, beside its daemon.
type truth interface {
	firerunner.Reader
	VMs(ctx context.Context, driver string) ([]firerunner.LedgerVM, error)
	io.Closer
}

// join gives a site the GitLab of another, which tells this one of jobs too, or tells both at hook.
func (s *site) join(other *site, hook string) {
	s.gitlab, s.project, s.token, s.signing, s.hook = other.gitlab, other.project, other.token, other.signing, other.hook
	if hook == "" {
		s.addHook(s.webhook())
	}
}

// webhook is where the daemon takes webhooks.
func (s *site) webhook() string { return fmt.Sprintf("http://127.0.0.1:%d/webhook", s.webhooks) }

func (s *site) addHook(url string) {
	s.t.Helper()
	var err error
	s.hook, err = s.gitlab.AddHook(s.project.ID, gitlabtest.Hook{URL: url, SigningToken: s.signing, JobEvents: true})
	require.NoError(s.t, err)
}

// keepIn is what the configuration says of a database; empty: the daemon's own file.
func (s *site) keepIn(url string) (config string) {
	s.t.Helper()
	if url == "" {
		return ""
	}
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "database"), []byte(url), 0o600))
	return "database_file: database\n"
}

// open opens the database beside the daemon, which has made its tables.
func (s *site) open(url string) {
	s.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	if url == "" {
		store, err := sqlite.Open(s.t.Context(), sqlite.Config{Path: s.state("firerunner.db"), Logger: quiet})
		require.NoError(s.t, err)
		s.store = store
		return
	}
	store, err := postgres.Open(s.t.Context(), postgres.Config{URL: firerunner.Secret(url), Logger: quiet})
	require.NoError(s.t, err)
	s.store = store
	s.mark, err = store.Installation(s.t.Context(), "")
	require.NoError(s.t, err)
}

// controllerSeen is what "firerunner controllers" says of one.
type controllerSeen struct {
	Name, Version, State, By string
	Runners                  int
	Since                    *time.Time
}

// sees returns what an operator beside this daemon sees of a controller.
func (s *site) sees(name string) controllerSeen {
	s.t.Helper()
	var all []controllerSeen
	require.NoError(s.t, json.Unmarshal([]byte(s.cli("controllers", "list", "--json")), &all))
	at := slices.IndexFunc(all, func(c controllerSeen) bool { return c.Name == name })
	require.GreaterOrEqual(s.t, at, 0, "controller %s", name)
	return all[at]
}

// seesState waits until an operator sees a controller in a state.
func (s *site) seesState(name, state string) (seen controllerSeen) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("controller %s: %s", name, state), func() bool {
		seen = s.sees(name)
		return seen.State == state
	})
	return seen
}
