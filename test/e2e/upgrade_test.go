package e2e

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/postgres"
)

// front is what stands before several controllers, as a load balancer does. It gives each webhook to the one that it is told.
type front struct {
	to  atomic.Pointer[url.URL]
	url string
}

func newFront(t *testing.T) *front {
	f := &front{}
	web := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(f.to.Load()) },
		Transport: &http.Transport{DisableKeepAlives: true}, // whoever is there now
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	})
	t.Cleanup(web.Close)
	f.url = web.URL + "/webhook"
	return f
}

func (f *front) tell(s *site) {
	to, err := url.Parse(strings.TrimSuffix(s.webhook(), "/webhook"))
	require.NoError(s.t, err)
	f.to.Store(to)
}

// rollout is two controllers of which one is the version before, and the other this one.
type rollout struct {
	*pair
	front *front
	jobs  []int64 // all that there were
}

// TestRollingUpgrade has the program of the version before and this one side by side on one database and the same hosts. The old
// one begins, alone on an empty database; the new one joins while a job runs, and brings the tables up to date under it. Then
// each of both is killed, and each is ended gently, while it has a job: the other one goes on with it and takes the next ones.
// So an upgrade one at a time loses nothing, and neither does the way back.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	r := &rollout{pair: preparePair(t, f.url), front: f}
	old, next := r.both[0], r.both[1]
	old.program = under.before(t)

	f.tell(old)
	old.start()
	r.runs()
	tables := r.tables()
	running := r.begins()
	next.start()
	r.open()
	t.Logf("the version before made tables of version %d, and goes on with %d", tables, r.tables())
	require.Equal(t, before, next.sees("a").Version)
	require.NotEqual(t, before, next.sees("b").Version)
	require.Equal(t, "a", r.runner(running).Controller)
	r.letGo(running)
	old.succeeded(running)

	r.crashes(old, next)
	r.crashes(next, old)
	r.ends(old, next)
	r.ends(next, old)
	// The old one is upgraded in its place: the state folder and the name that it leaves are its next version's. And the way back.
	for _, program := range []string{next.program, old.program} {
		old.stop()
		old.program = program
		old.start()
		job := r.begunBy(old)
		r.letGo(job)
		old.succeeded(job)
		r.settle()
	}
	r.once(r.jobs...)
	require.Len(t, old.rows(firerunner.RunnerQuery{}), len(r.jobs), "one microVM for each job")
	for _, s := range r.both {
		s.stop()
		lines, odd := s.log()
		require.Empty(t, odd, "said outside of the log")
		require.False(t, slices.ContainsFunc(lines, func(l logLine) bool { return l.Level == "ERROR" }), "controller %s logged an error", r.name(s))
	}
	controllers, err := r.store.Controllers(t.Context())
	require.NoError(t, err)
	require.Empty(t, controllers, "who has ended and left nothing is forgotten")
}

// crashes kills one of both under a job of its own. The other stands in for it and takes the next job, and gives the first one
// back to the one that is started again.
func (r *rollout) crashes(dies, lives *site) {
	r.t.Helper()
	r.whileBoth(dies, lives, func(job int64) {
		dies.kill()
		r.goesOn(job, dies, lives)
		dies.start()
		lives.seesState(r.name(dies), "serves")
		require.Equal(r.t, firerunner.Running, r.runner(job).State)
	})
}

// ends ends one of both gently under a job of its own: the other one has it at once, and to its end.
func (r *rollout) ends(goes, stays *site) {
	r.t.Helper()
	r.whileBoth(goes, stays, func(job int64) {
		goes.stop()
		r.goesOn(job, goes, stays)
	})
	goes.start()
}

// whileBoth has a job run under each of both, does something to the one that has the first, and lets them end.
func (r *rollout) whileBoth(has, other *site, do func(job int64)) {
	r.t.Helper()
	first, second := r.begunBy(has), r.begunBy(other)
	before := r.runner(first)
	do(first)
	for _, job := range []int64{first, second} {
		r.letGo(job)
		has.succeeded(job)
	}
	r.settle()
	after := r.runner(first)
	require.Equal(r.t, before.ID, after.ID, "the same microVM")
	require.Equal(r.t, firerunner.Succeeded, after.Outcome, after.Message)
}

// goesOn requires that one of both stands in for the other, whose job runs on, and takes the next one.
func (r *rollout) goesOn(job int64, away, stays *site) {
	r.t.Helper()
	r.front.tell(stays)
	require.Equal(r.t, r.name(stays), r.runner(r.runs()).Controller, "the next job")
	require.Equal(r.t, r.name(stays), stays.seesState(r.name(away), "stood in for").By)
	require.Equal(r.t, firerunner.Running, r.runner(job).State)
}

// runs has a job run, from its push to its end.
func (r *rollout) runs() (job int64) {
	r.t.Helper()
	job = r.both[0].only("short:\n  script: ['true']\n").ID
	r.jobs = append(r.jobs, job)
	r.both[0].succeeded(job)
	return job
}

// begins has a job run until it is let go.
func (r *rollout) begins() (job int64) {
	r.t.Helper()
	job = r.both[0].only("waits:\n  script: [wait]\n").ID
	r.jobs = append(r.jobs, job)
	ctx, cancel := r.both[0].patiently()
	defer cancel()
	_, err := r.both[0].gitlab.WaitJob(ctx, job, gitlabtest.StatusRunning)
	require.NoError(r.t, err)
	return job
}

// begunBy is begins for a runner of one of both: nearly always it is who hears of a job that takes it.
func (r *rollout) begunBy(s *site) (job int64) {
	r.t.Helper()
	r.front.tell(s)
	s.eventually("a job that controller "+r.name(s)+" has taken", func() bool {
		job = r.begins()
		if r.runner(job).Controller == r.name(s) {
			return true
		}
		r.t.Logf("job %d was told to controller %s, and taken by the other one", job, r.name(s))
		r.letGo(job)
		s.succeeded(job)
		return false
	})
	return job
}

// runner is the one that took a job.
func (r *rollout) runner(job int64) (took firerunner.Runner) {
	r.t.Helper()
	s := r.both[0]
	s.eventually("a runner that took the job", func() bool {
		return slices.ContainsFunc(s.rows(firerunner.RunnerQuery{}), func(row firerunner.Runner) bool { return row.JobID == job })
	})
	return s.row(job)
}

// name is that of a controller.
func (r *rollout) name(s *site) string { return map[*site]string{r.both[0]: "a", r.both[1]: "b"}[s] }

// tables is the version of the tables.
func (r *rollout) tables() int64 {
	r.t.Helper()
	seen, err := postgres.Inspect(r.t.Context(), postgres.Config{URL: firerunner.Secret(r.url), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(r.t, err)
	return seen.Version
}
