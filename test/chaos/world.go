package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
	"github.com/firerunner/firerunner/test/remains"
)

// world is everything of one run.
type world struct {
	Options
	dir   string // of the controllers
	began time.Time

	gitlab   *gitlabtest.Server
	token    string // FireRunner's own, for GitLab's API
	postgres *postgrestest.Server
	fleet    *fleet
	sites    []*site
	jobs     map[string]*job // by name

	mu      sync.Mutex
	kills   []kill                        // of controllers
	vmKills []vmKill                      // of microVMs
	ended   []string                      // what was wrong on the way
	left    []string                      // at the end of it all
	faults  []gitlabtest.Fault            // of GitLab, with how often each struck
	events  map[string][]firerunner.Event // by site

	killed atomic.Int64 // controllers so far
	calm   atomic.Bool  // controllers are left alone from now on
	fed    atomic.Bool  // every job is in GitLab
}

// Run is one run, from nothing to nothing. What is wrong is in the report.
func Run(ctx context.Context, o Options) Report {
	w := &world{Options: o, began: time.Now(), jobs: map[string]*job{}, events: map[string][]firerunner.Event{}}
	err := w.open(ctx)
	if err == nil {
		w.storm(ctx)
		w.settle(ctx)
		w.end(ctx)
	}
	report := w.report()
	report.Kept = w.Dir
	if err != nil {
		report.Problems = append(report.Problems, err.Error())
	}
	if len(report.Problems) > 0 {
		if err := w.keep(report); err != nil {
			report.Problems = append(report.Problems, fmt.Sprintf("keeping the logs: %v", err))
		}
	}
	report.Problems = append(report.Problems, w.dispose()...)
	return report
}

func (w *world) chance(who uint64) *rand.Rand { return rand.New(rand.NewPCG(w.Seed, who)) }

func (w *world) tell(format string, args ...any) {
	if w.Tell != nil {
		fmt.Fprintf(w.Tell, "%7.2f s  %s\n", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// wrong notes what must not be.
func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = append(w.ended, fmt.Sprintf(format, args...))
	w.tell("WRONG: "+format, args...)
}

// open starts everything and waits until each controller serves.
func (w *world) open(ctx context.Context) (err error) {
	if w.Accel == "auto" {
		if _, err := os.Stat("/dev/kvm"); runtime.GOARCH != "amd64" || err != nil {
			w.Accel = "tcg" // a probe at each start would be most of a recovery
		}
	}
	if w.dir, err = os.MkdirTemp("/tmp", "fr-"); err != nil { // short, for unix sockets
		return err
	}
	if err := os.Chmod(w.dir, 0o711); err != nil { // microVMs are users of their own
		return err
	}
	for _, dir := range []string{"gitlab", "hosts"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o700); err != nil {
			return err
		}
	}
	w.gitlab, err = gitlabtest.Start(gitlabtest.Config{
		Dir: filepath.Join(w.dir, "gitlab"), ExternalURL: guestGitLab, Seed: w.chance(drawFaults).Uint64(), TraceUpdateInterval: time.Second,
		SilenceLimit: silenceLimit, SweepInterval: time.Second,
	})
	if err != nil {
		return err
	}
	w.token = w.gitlab.CreateToken("create_runner", "manage_runner", "read_api")
	if w.postgres, err = postgrestest.Run(postgrestest.Options{}); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	if w.fleet, err = newFleet(filepath.Join(w.dir, "hosts"), strings.TrimPrefix(w.gitlab.URL(), "http://")); err != nil {
		return err
	}
	if _, err := w.fleetSite(); err != nil {
		return err
	}
	if w.RealJobs > 0 {
		if _, err := w.realSite(); err != nil {
			return err
		}
	}
	for _, c := range w.controllers() {
		if err := c.start(); err != nil {
			return err
		}
		if err := w.serves(ctx, c); err != nil {
			return err
		}
	}
	for _, s := range w.sites {
		if err := s.open(ctx); err != nil {
			return err
		}
	}
	return w.disturb()
}

// silenceLimit is when the emulated GitLab fails a job of which nothing is heard, so that a job that is forgotten ends the
// run some day. It is no excuse: who is failed so is counted as wrong.
const silenceLimit = 45 * time.Second

// disturb has GitLab misbehave from now on.
func (w *world) disturb() error {
	for _, f := range []gitlabtest.Fault{
		{Hook: true, Action: gitlabtest.FaultDrop, Percent: 30},
		{Hook: true, Action: gitlabtest.FaultDouble, Percent: 29}, // of the other 70
		{Hook: true, Action: gitlabtest.FaultReorder, Percent: 20},
		// An answer to POST /user/runners that is lost has made a runner that nobody has the token of.
		{Action: gitlabtest.FaultStatusAfter, Status: 502, Method: "POST", Path: "/api/v4/user/runners", Percent: 5},
		{Action: gitlabtest.FaultStatus, Status: 500, Path: "/api/v4/**", Percent: 5},
		{Action: gitlabtest.FaultStatus, Status: 503, Path: "/api/v4/**", Percent: 5},
	} {
		if _, err := w.gitlab.AddFault(f); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) controllers() (all []*controller) {
	for _, s := range w.sites {
		all = append(all, s.controllers...)
	}
	return all
}

// startLimit is how long a controller may take to serve on a machine that has other things to do.
const startLimit = time.Minute

func (w *world) serves(ctx context.Context, c *controller) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return c.served(ctx)
}

// settle waits until no job is open and nothing is left.
func (w *world) settle(ctx context.Context) {
	w.tell("the storm is over")
	w.faults = w.gitlab.Faults()
	w.gitlab.ClearFaults()
	ctx, cancel := context.WithTimeout(ctx, w.Patience)
	defer cancel()
	for {
		w.left = w.now(ctx)
		if len(w.left) == 0 || ctx.Err() != nil {
			w.tell("%d things are left", len(w.left))
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// now is everything that is there of any job, in words.
func (w *world) now(ctx context.Context) (left []string) {
	for _, j := range w.gitlab.Jobs(gitlabtest.JobFilter{}) {
		if !j.Status.Finished() {
			left = append(left, fmt.Sprintf("job %d (%s) is %s", j.ID, j.Name, j.Status))
		}
	}
	for _, r := range w.gitlab.Runners() {
		left = append(left, fmt.Sprintf("runner %d in GitLab, %s", r.ID, r.Description))
	}
	left = append(left, w.fleet.left()...)
	for _, s := range w.sites {
		left = append(left, s.left(context.WithoutCancel(ctx))...)
	}
	return left
}

// end ends the controllers gently; they must have nothing to complain of.
func (w *world) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var ending sync.WaitGroup
	for _, c := range w.controllers() {
		ending.Go(func() {
			if _, lives := c.lives(); !lives {
				w.wrong("controller %s is not there at the end", c.name)
				return
			}
			status, err := c.signal(ctx, syscall.SIGTERM)
			if err != nil || status != 0 {
				w.wrong("controller %s at its end: status %d, %v", c.name, status, err)
			}
		})
	}
	ending.Wait()
	for _, s := range w.sites {
		w.read(ctx, s)
		if err := s.store.Close(); err != nil {
			w.wrong("closing the store of %s: %v", s.name, err)
		}
		for _, what := range s.leftAfter() {
			w.wrong("%s", what)
		}
	}
}

// dispose ends what is there of this world, in whatever state it is, and removes its files.
func (w *world) dispose() (problems []string) {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	for _, c := range w.controllers() {
		if _, lives := c.lives(); lives {
			_, _ = c.signal(ctx, syscall.SIGKILL)
		}
	}
	for _, s := range w.sites {
		_ = s.balancer.server.Close()
	}
	if w.fleet != nil {
		w.fleet.close()
	}
	var err error
	if w.gitlab != nil {
		err = w.gitlab.Close()
	}
	if w.postgres != nil {
		w.postgres.Stop()
	}
	var groups []string
	for _, c := range w.controllers() {
		groups = append(groups, remains.Cgroups(c.installation())...)
	}
	if w.dir != "" {
		for range 100 { // a microVM dies with its shim, and a control group cannot go before its processes
			for _, p := range remains.Processes(w.dir) {
				_ = syscall.Kill(p.PID, syscall.SIGKILL)
			}
			groups = slices.DeleteFunc(groups, func(dir string) bool { return os.Remove(dir) == nil || errors.Is(os.Remove(dir), os.ErrNotExist) })
			if len(remains.Processes(w.dir)) == 0 && len(groups) == 0 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	if err != nil {
		problems = append(problems, err.Error())
	}
	return problems
}
