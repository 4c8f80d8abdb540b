package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/peers"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

// several is a site on PostgreSQL as its controllers would have left it.
type several struct {
	site
	*postgres.Store
}

func newSeveral(t *testing.T) several {
	t.Helper()
	dir := t.TempDir()
	s := several{site: site{TB: t, dir: dir, environ: []string{"HOME=" + dir, "FIRERUNNER_STATE_DIR=" + filepath.Join(dir, "state")}}}
	url := postgrestest.New(t)
	s.site = s.on(url)
	s.site.run(0, "db", "migrate")
	var err error
	s.Store, err = postgres.Open(t.Context(), postgres.Config{URL: firerunner.Secret(url), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// controller registers one whose lease lasts so long.
func (s several) controller(name, driver, holder string, lasts time.Duration) firerunner.Lease {
	s.Helper()
	ctx := context.Background()
	l, ok, err := s.Acquire(ctx, firerunner.LeaseOf(name), holder, lasts)
	require.NoError(s, err)
	require.True(s, ok)
	require.NoError(s, s.SaveController(ctx, firerunner.Controller{
		Name: name, Driver: driver, Machine: "machine-" + name, Version: "1.0", StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}))
	return l
}

func (s several) runner(id, controller string) {
	s.Helper()
	require.NoError(s, s.Update(context.Background(), func(tx firerunner.Tx) error {
		r := firerunner.NewRunner(id, firerunner.Demand{ProjectID: 1}, time.Now())
		r.State, r.Host, r.Controller = firerunner.Running, "h", controller
		return tx.CreateRunner(context.Background(), r)
	}))
}

func (s several) list() (table string, views map[string]controllerView) {
	s.Helper()
	out, _ := s.run(0, "controllers", "list", "--json")
	var all []controllerView
	require.NoError(s, json.Unmarshal([]byte(out), &all))
	views = map[string]controllerView{}
	for _, v := range all {
		views[v.Name] = v
	}
	table, _ = s.run(0, "controllers")
	return table, views
}

func TestControllersList(t *testing.T) {
	t.Parallel()
	s := newSeveral(t)
	table, none := s.list()
	require.Empty(t, none)
	require.Regexp(t, `^NAME +MACHINE +VERSION +DRIVER +STATE +SINCE +RUNNERS\n$`, table)

	s.controller("", "flintlock", "m1/1", time.Hour)
	s.controller("b", "flintlock", "m2/2", time.Hour)
	s.controller("c", "flintlock", peers.StandIn("m2/2"), time.Hour)
	s.controller("d", "qemu", "m4/4", time.Microsecond)
	_, ok, err := s.Acquire(t.Context(), firerunner.SiteLease, "m2/2", time.Hour)
	require.NoError(t, err)
	require.True(t, ok)
	s.runner(fleetRunner, "c")
	s.runner("runner0000000002", "unregistered")

	table, views := s.list()
	require.Regexp(t, `(?m)^\(unnamed\) +machine- +1.0 +flintlock +serves +2026-01-02T03:04:05Z +0$`, table)
	require.Regexp(t, `(?m)^b +machine-b +1.0 +flintlock +leads +2026-01-02T03:04:05Z +0$`, table)
	require.Regexp(t, `(?m)^c +machine-c +1.0 +flintlock +stood in for by b +- +1$`, table)
	require.Regexp(t, `(?m)^d +machine-d +1.0 +qemu +away +20\S+Z +0$`, table)
	require.Regexp(t, `(?m)^unregistered +- +- +- +away +- +1$`, table)
	require.Len(t, views, 5)
	require.Equal(t, "b", views["c"].By)
	require.Equal(t, "stood in for", views["c"].State)
	require.WithinDuration(t, time.Now(), *views["d"].Since, time.Minute, "when its lease was over")
}

// TestControllersRemove: nobody is forgotten of whom something is left, and each refusal says what helps.
func TestControllersRemove(t *testing.T) {
	t.Parallel()
	s := newSeveral(t)
	ctx := t.Context()
	s.controller("serves", "flintlock", "m1/1", time.Hour)
	s.controller("stood", "flintlock", peers.StandIn("m1/1"), time.Hour)
	for _, name := range []string{"runners", "ledger"} {
		s.controller(name, "flintlock", "m2/"+name, time.Microsecond)
	}
	lease := s.controller("machine", "qemu", "m3/3", time.Microsecond)
	s.runner(fleetRunner, "runners")
	require.NoError(t, s.SaveVM(ctx, firerunner.LedgerVM{ID: "vm", Driver: "flintlock@ledger", Host: "h1"}))
	require.NoError(t, s.Update(ctx, func(tx firerunner.Tx) error {
		if err := tx.SaveHost(ctx, firerunner.Host{Name: "h1", Driver: "flintlock", Controller: "ledger"}); err != nil {
			return err
		}
		return tx.SaveHost(ctx, firerunner.Host{Name: "m3", Driver: "qemu", Controller: "machine"})
	}))
	for name, says := range map[string][2]string{
		"serves":  {`controller "serves" serves, on machine-serves`, "end it"},
		"stood":   {`controller "serves" stands in for controller "stood"`, "wait"},
		"runners": {`1 live runners bear the name`, "start it again"},
		"ledger":  {`1 microVMs are in the ledger of controller "ledger", the first on host h1`, "start it again"},
		"machine": {`host m3 is the machine of controller "machine"`, "firerunner hosts rm m3"},
	} {
		_, said := s.run(4, "controllers", "rm", name)
		require.Contains(t, said, says[0])
		require.Contains(t, said, "hint: "+says[1])
	}
	_, said := s.run(3, "controllers", "rm", "nobody")
	require.Contains(t, said, `there is no controller "nobody"`)
	_, views := s.list()
	require.Len(t, views, 5, "nothing was changed")

	s.run(0, "hosts", "rm", "m3")
	require.NoError(t, s.ForgetVM(ctx, "vm"))
	out, _ := s.run(0, "controllers", "rm", "machine")
	require.Equal(t, "machine is forgotten\n", out)
	out, _ = s.run(0, "controllers", "rm", "ledger", "--json")
	require.JSONEq(t, `{"removed": "ledger"}`, out)
	s.run(3, "controllers", "rm", "machine")
	_, views = s.list()
	require.Len(t, views, 3)
	leases, err := s.LeasesOf(ctx, lease.Name)
	require.NoError(t, err)
	require.Len(t, leases, 1)
	require.True(t, leases[0].Over, "for the others to take up what it was doing; and its next process waits for nothing")
	events, err := s.Events(ctx, firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventDaemon}})
	require.NoError(t, err)
	require.Contains(t, events[0].Message+events[1].Message, `controller "machine": forgotten, by an operator`)
}

// TestControllersRemoveAfterCrash: a command that died under the lease of the one that it forgets keeps nobody away for long,
// and nobody takes it for the controller.
func TestControllersRemoveAfterCrash(t *testing.T) {
	t.Parallel()
	s := newSeveral(t)
	s.controller("b", "flintlock", "m2/2", time.Microsecond)
	_, ok, err := s.Acquire(t.Context(), firerunner.LeaseOf("b"), peers.StandIn("an operator on m1/1"), time.Hour)
	require.NoError(t, err)
	require.True(t, ok)
	_, views := s.list()
	require.Equal(t, "stood in for", views["b"].State)
	require.Equal(t, "an operator on m1/1", views["b"].By)
	_, said := s.run(4, "controllers", "rm", "b")
	require.Contains(t, said, `"an operator on m1/1" stands in for controller "b"`)
	require.Less(t, forgetting, time.Minute)
}

func TestControllersOnSQLite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := site{TB: t, dir: dir, environ: []string{"HOME=" + dir, "FIRERUNNER_STATE_DIR=" + filepath.Join(dir, "state")}}
	_, said := s.run(3, "controllers")
	require.Contains(t, said, "there is no database")
	require.NoDirExists(t, filepath.Join(dir, "state"))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "state"), 0o700))
	s.run(0, "db", "migrate")
	out, _ := s.run(0, "controllers")
	require.Regexp(t, `^one process alone serves a file, .*firerunner\.db: there are no others\n$`, out)
	out, _ = s.run(0, "controllers", "list", "--json")
	require.JSONEq(t, `[]`, out)
	_, said = s.run(3, "controllers", "rm", "a")
	require.Contains(t, said, "hint: one process alone serves a file")
}
