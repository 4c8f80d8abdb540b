package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// A clock that jumps makes one lost answer look like a long silence: that is no reason to give a host up.
func TestHostNotLostByClock(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h, fleet := newFleet(t, options{script: workAfter(gate)}, fleetHost("a", 2))
	ids := h.push(small)
	h.awaitRunner("running", on("a", firerunner.Running))
	require.NoError(t, h.control.Probe(t.Context()))
	fleet.set(func() { fleet.silent["a"] = true })
	h.later(time.Hour)
	require.NoError(t, h.control.Probe(t.Context()))
	require.False(t, h.host("a").Lost)
	fleet.set(func() { fleet.silent["a"] = false })
	require.NoError(t, h.control.Probe(t.Context()))
	require.Empty(t, h.host("a").Trouble)
	close(gate)
	h.nothingLeft()
	h.ranOnce(ids...)
}

// A driver that does not say whether it made a microVM may have made it, and its guest may have taken a job by the time
// that the driver's error is heard: the job is not killed. Without a job the microVM goes, and another is made.
func TestCreateUnclear(t *testing.T) {
	t.Parallel()
	var current *world
	store := modelStore(t, &current)
	for number, c := range map[int64]struct {
		code  firerunner.Code
		takes bool
		stays bool
		knows bool // GitLab is asked for the job
	}{
		1: {code: firerunner.Unavailable, takes: true, stays: true},
		2: {code: firerunner.Unavailable, stays: true},
		3: {code: firerunner.Internal, takes: true, stays: true, knows: true},
		4: {code: firerunner.Internal},
	} {
		w := newWorld(func(format string, args ...any) {
			t.Helper()
			t.Fatalf(format, args...)
		}, store, number)
		current = w
		w.start()
		w.createErr = firerunner.Errorf(c.code, "the host did not say")
		w.createUnclear = func(id string) {
			w.createErr, w.createUnclear = nil, nil
			if c.takes {
				w.act(id) // hello
				w.act(id) // takes the job
			}
		}
		id := w.newJob(small)
		w.task(w.control.Sweep)
		w.settle()
		require.Nil(t, w.createUnclear, "it was asked to make one")
		r, err := store.Runners(t.Context(), firerunner.RunnerQuery{Live: true})
		require.NoError(t, err)
		if c.stays {
			require.Len(t, r, 1, "case %d", number)
			require.Equal(t, firerunner.Booting, r[0].State)
			require.Equal(t, c.knows, r[0].JobID == id)
			require.Len(t, w.vms, 1)
		} else {
			require.Empty(t, r)
		}
		if c.knows { // it has a job's time, not the time to boot
			w.now = w.now.Add(5 * time.Minute)
			w.task(w.control.Expire)
			w.settle()
		}
		w.finish()
		require.Equal(t, firerunner.JobSuccess, w.jobs[id].Status)
		require.Equal(t, 1, w.jobs[id].handouts)
	}
}

// What a guest said while no daemon listened is heard before a deadline that passed meanwhile counts: the job that it ran
// to its end is remembered as what it was.
func TestDeadlineWhileDead(t *testing.T) {
	t.Parallel()
	var current *world
	store := modelStore(t, &current)
	w := newWorld(t.Fatalf, store, 1)
	current = w
	w.start()
	id := w.newJob(small)
	w.task(w.control.Sweep)
	w.settle()
	runner := w.ids()[0]
	w.dead = true
	for range 4 { // hello, takes the job, does it, ends
		w.act(runner)
	}
	w.now = w.now.Add(5 * time.Minute)
	w.survive()
	w.task(w.control.Expire)
	w.deliverAll()
	w.finish()
	r, err := store.Runner(t.Context(), runner)
	require.NoError(t, err)
	require.Equal(t, firerunner.Succeeded, r.Outcome, r.Message)
	require.Equal(t, id, r.JobID)

	w.dead = true // and a guest that says nothing is still ended
	w.survive()
	w.newJob(small)
	w.task(w.control.Sweep)
	w.settle()
	silent := w.ids()[0]
	w.dead = true
	w.now = w.now.Add(5 * time.Minute)
	w.survive()
	w.task(w.control.Expire)
	r, err = store.Runner(t.Context(), silent)
	require.NoError(t, err)
	require.Equal(t, firerunner.Wanted, r.Desired)
	w.now = w.now.Add(11 * time.Second)
	w.task(w.control.Expire)
	r, err = store.Runner(t.Context(), silent)
	require.NoError(t, err)
	require.Equal(t, firerunner.ReasonDeadline, r.Reason)
	w.finish()
}

// A guest may have done a job of which nobody has heard when its runner is to end, as surplus or for its deadline: GitLab is
// asked for that as well as for one that runs, and the job is remembered as what it was.
func TestEndedUnheard(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world, own int64) (runs int64){
		"as surplus": func(w *world, own int64) int64 {
			w.cancel(own)
			return w.newJob(small) // its guest takes that instead
		},
		"for its deadline": func(w *world, own int64) int64 {
			w.now = w.now.Add(5 * time.Minute)
			return own
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newModel(t)
			own := w.newJob(small)
			w.task(w.control.Sweep)
			w.settle()
			runner := w.ids()[0]
			runs := end(w, own)
			w.wholeLife(runner)
			w.now = w.now.Add(time.Second)
			w.task(w.control.Expire)
			w.task(w.control.Sweep)
			w.settle() // before anything of the guest is heard
			r, err := w.store.Runner(t.Context(), runner)
			require.NoError(t, err)
			require.Equal(t, firerunner.Succeeded, r.Outcome, r.Message)
			require.Equal(t, runs, r.JobID)
			w.finish()
		})
	}
}

// A runner that nobody wants any more by the time that GitLab has made its credential gets no microVM: its guest could
// take a job that came meanwhile, and would be killed with it.
func TestUnwantedWhileCredentialIsMade(t *testing.T) {
	t.Parallel()
	var current *world
	store := modelStore(t, &current)
	w := newWorld(t.Fatalf, store, 1)
	current = w
	w.start()
	first := w.newJob(small)
	w.onCredential = func() {
		w.onCredential = nil
		w.cancel(first)
		for _, s := range []firerunner.Step{
			{Kind: firerunner.StepReadJob, ProjectID: w.project, JobID: first},
			{Kind: firerunner.StepDemand, ProjectID: w.project, Tags: small},
		} {
			require.NoError(t, w.control.Steps()[s.Kind](t.Context(), s))
		}
	}
	made := 0
	w.createErr, w.createUnclear = firerunner.Errorf(firerunner.Unavailable, "slow"), func(string) { made++ }
	w.task(w.control.Sweep)
	w.settle()
	w.createErr, w.createUnclear = nil, nil
	require.Nil(t, w.onCredential)
	require.Zero(t, made)
	require.Empty(t, w.runners)
	second := w.newJob(small)
	w.finish()
	require.Equal(t, firerunner.JobSuccess, w.jobs[second].Status)
}
