package control_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// world is GitLab, driver, guests, queue and clock as a model without goroutines: each thing happens when the test says
// so, in any order, and the daemon dies wherever the test says. Only control and the store are real.
type world struct {
	fail    func(format string, args ...any)
	store   *sqlite.Store
	control *control.Control
	project int64
	now     time.Time
	elapsed time.Duration // by a clock that never jumps; for the tests that are about jumps
	dead    bool          // the daemon that runs now
	crashIn int           // points until it dies; 0 = it does not

	nextID  int64
	jobs    map[int64]*modelJob
	runners map[int64]*modelRunner
	vms     map[string]*modelVM
	steps   []firerunner.Step // due
	later   []firerunner.Step // put off

	createErr, runnerJobsErr, listErr error           // faults
	away                              bool            // GitLab
	calls                             int             // to GitLab
	createUnclear                     func(id string) // with createErr: the microVM is made all the same
	onCredential                      func()          // before GitLab answers that it made a runner
}

type modelJob struct {
	firerunner.Job
	handouts int
}

type modelRunner struct {
	firerunner.GitLabRunner
	tags firerunner.TagSet
	job  int64
}

type modelVM struct {
	spec    firerunner.MicroVMSpec
	token   string
	phase   int
	job     int64
	alive   bool
	reports []firerunner.GuestReport
}

var errDead = errors.New("the daemon is dead")

// modelStore returns a store whose steps go to whichever world is current.
func modelStore(t testing.TB, current **world) *sqlite.Store {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Config{
		Path: freshFile(t), Logger: slog.New(slog.DiscardHandler), Migrate: []func(context.Context, *sql.DB) error{queue.Migrate},
		Enqueue:  func(context.Context, *sql.Tx, firerunner.Step) error { return nil },
		Enqueued: func(steps []firerunner.Step) { (*current).enqueue(steps...) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// newWorld returns a world of its own project and day in a store that may have been used before.
func newWorld(fail func(string, ...any), store *sqlite.Store, number int64) *world {
	w := &world{
		fail: fail, store: store, project: number, nextID: number * 1000, now: time.Unix(1_800_000_000, 0).Add(time.Duration(number) * 24 * time.Hour),
		jobs: map[int64]*modelJob{}, runners: map[int64]*modelRunner{}, vms: map[string]*modelVM{},
	}
	if err := store.Update(context.Background(), func(tx firerunner.Tx) error {
		return tx.SaveHost(context.Background(), firerunner.Host{Name: "here", VCPUs: 8, MemoryMiB: 65536, Slots: 8})
	}); err != nil {
		fail("%v", err)
	}
	return w
}

func (w *world) enqueue(steps ...firerunner.Step) {
	for _, s := range steps {
		if !slices.Contains(w.steps, s) {
			w.steps = append(w.steps, s)
		}
	}
}

// start starts a daemon on what is there; what the dead one was running or had put off is due again.
func (w *world) start() {
	w.dead, w.crashIn = false, 0
	c, err := control.New(control.Config{
		Store: tapStore{w.store, w.pass, func() {}}, GitLab: tapGitLab{w, w.pass}, Driver: tapDriver{modelDriver{w}, w.pass},
		Image:        func(context.Context, string) (firerunner.Image, error) { return firerunner.Image{Name: "debian"}, nil },
		Installation: "inst1", Profiles: profiles(), GuestURL: "http://gitlab", SweepProjects: []int64{w.project}, SweepWindow: time.Hour,
		SweepPerMinute: 1e9, // time costs nothing here, and the budget has a clock of its own
		Now:            func() time.Time { return w.now }, Elapsed: func() time.Duration { return w.elapsed }, NewID: func() string { return fmt.Sprintf("r%015d", w.id()) },
		StopGrace: time.Nanosecond,
	})
	if err != nil {
		w.fail("%v", err)
	}
	w.control = c
	if err := c.Adopt(context.Background()); err != nil {
		w.fail("adopting: %v", err)
	}
}

// pass counts the points on the way to the crash.
func (w *world) pass(context.Context, string) error {
	if w.crashIn > 0 {
		if w.crashIn--; w.crashIn == 0 {
			w.dead = true
		}
	}
	if w.dead {
		return errDead
	}
	return nil
}

// survive starts another daemon if the last one died.
func (w *world) survive() {
	if w.dead {
		w.steps, w.later = append(w.steps, w.later...), nil
		w.start()
	}
}

func (w *world) id() int64 { w.nextID++; return w.nextID }

// run does the i-th step that is due. One that fails, or dies, is done again later.
func (w *world) run(i int) {
	s := w.steps[i]
	w.steps = slices.Delete(w.steps, i, i+1)
	if err := w.control.Steps()[s.Kind](context.Background(), s); err != nil {
		if w.dead {
			w.enqueue(s)
		} else if !slices.Contains(w.later, s) {
			w.later = append(w.later, s)
		}
	}
	w.survive()
}

// task runs one of the periodic tasks.
func (w *world) task(do func(context.Context) error) {
	if err := do(context.Background()); err != nil && !w.dead {
		w.fail("a periodic task failed: %v", err)
	}
	w.survive()
}

func (w *world) newJob(tags firerunner.TagSet) int64 {
	id := w.id()
	w.jobs[id] = &modelJob{Job: firerunner.Job{ID: id, ProjectID: w.project, Status: firerunner.JobPending, Tags: tags, Name: "job"}}
	return id
}

func (w *world) cancel(id int64) {
	if j := w.jobs[id]; !j.Status.Final() {
		j.Status = firerunner.JobCanceled
	}
}

// act lets a guest do the next thing that a guest does.
func (w *world) act(id string) {
	vm := w.vms[id]
	if vm == nil || !vm.alive {
		return
	}
	switch vm.phase {
	case 0:
		vm.report(firerunner.GuestReport{Kind: firerunner.ReportHello})
	case 1:
		r := w.byToken(vm.token)
		if r == nil {
			vm.report(firerunner.GuestReport{Kind: firerunner.ReportRunnerExited, ExitCode: 1})
			vm.end()
			return
		}
		j := w.nextJob(r)
		if j == nil {
			return
		}
		j.handouts++
		j.Status, j.GitLabID = firerunner.JobRunning, r.ID
		vm.job, r.job = j.ID, j.ID
		vm.report(firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: j.ID})
	case 2:
		j := w.jobs[vm.job]
		ok := j.Status == firerunner.JobRunning
		if ok {
			j.Status = firerunner.JobSuccess
		}
		vm.report(firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: j.ID, Success: ok})
	case 3:
		vm.report(firerunner.GuestReport{Kind: firerunner.ReportRunnerExited})
		vm.end()
		return
	}
	vm.phase++
}

func (vm *modelVM) report(r firerunner.GuestReport) {
	r.Seq = int64(len(vm.reports)) + 1
	vm.reports = append(vm.reports, r)
}

func (vm *modelVM) end() {
	vm.alive = false
	vm.report(firerunner.GuestReport{Kind: firerunner.ReportExited, Message: "off"})
}

// deliver applies the next report of a guest that the daemon does not have, or an old one once more.
func (w *world) deliver(id string, again bool) bool {
	r, err := w.store.Runner(context.Background(), id)
	vm := w.vms[id]
	if err != nil || r.State < firerunner.Booting || r.State >= firerunner.Stopping {
		return false
	}
	if vm == nil {
		w.fail("runner %s is %s and has no microVM", id, r.State)
	}
	n := int(r.Report)
	if again && n > 0 {
		n--
	}
	if n >= len(vm.reports) {
		return false
	}
	if err := w.control.Apply(context.Background(), id, vm.reports[n]); err != nil && !w.dead {
		w.fail("applying %v: %v", vm.reports[n], err)
	}
	w.survive()
	return true
}

func (w *world) byToken(token string) *modelRunner {
	for _, r := range w.runners {
		if fmt.Sprint("glrt-", r.ID) == token {
			return r
		}
	}
	return nil
}

func (w *world) nextJob(r *modelRunner) *modelJob {
	var found *modelJob
	for _, j := range w.jobs {
		fits := j.Status == firerunner.JobPending && !r.Paused && r.job == 0
		for _, tag := range j.Tags.List() {
			fits = fits && slices.Contains(r.tags.List(), tag)
		}
		if fits && (found == nil || j.ID < found.ID) {
			found = j
		}
	}
	return found
}

// firerunner.GitLab

// called counts a call, which fails while GitLab is away.
func (w *world) called() error {
	w.calls++
	if w.away {
		return firerunner.Errorf(firerunner.Unavailable, "502 Bad Gateway")
	}
	return nil
}

func (w *world) CreateRunner(_ context.Context, r firerunner.CredentialRequest) (firerunner.Credential, error) {
	if err := w.called(); err != nil {
		return firerunner.Credential{}, err
	}
	id := w.id()
	if w.onCredential != nil {
		w.onCredential()
	}
	w.runners[id] = &modelRunner{GitLabRunner: firerunner.GitLabRunner{ID: id, Description: r.Description}, tags: r.Tags}
	return firerunner.Credential{ID: id, Token: firerunner.Secret(fmt.Sprint("glrt-", id))}, nil
}

func (w *world) FindRunners(_ context.Context, _ int64, prefix string) (found []firerunner.GitLabRunner, _ error) {
	if err := w.called(); err != nil {
		return nil, err
	}
	for _, r := range w.runners {
		if strings.HasPrefix(r.Description, prefix) {
			found = append(found, r.GitLabRunner)
		}
	}
	slices.SortFunc(found, func(a, b firerunner.GitLabRunner) int { return cmp.Compare(a.ID, b.ID) })
	return found, nil
}

func (w *world) PauseRunner(_ context.Context, id int64) error {
	if err := w.called(); err != nil {
		return err
	}
	if r := w.runners[id]; r != nil {
		r.Paused = true
		return nil
	}
	return firerunner.Errorf(firerunner.NotFound, "no runner %d", id)
}

func (w *world) DeleteRunner(_ context.Context, id int64) error {
	if err := w.called(); err != nil {
		return err
	}
	delete(w.runners, id)
	return nil
}

func (w *world) RunnerJobs(_ context.Context, id int64) (taken []firerunner.Job, _ error) {
	if err := w.called(); err != nil {
		return nil, err
	}
	if w.runnerJobsErr != nil {
		return nil, w.runnerJobsErr
	}
	if r := w.runners[id]; r != nil && r.job != 0 {
		taken = append(taken, w.jobs[r.job].Job)
	}
	return taken, nil
}

func (w *world) Job(_ context.Context, _, id int64) (firerunner.Job, error) {
	if err := w.called(); err != nil {
		return firerunner.Job{}, err
	}
	if j := w.jobs[id]; j != nil {
		return j.Job, nil
	}
	return firerunner.Job{}, firerunner.Errorf(firerunner.NotFound, "no job %d", id)
}

func (w *world) PendingJobs(_ context.Context, project int64) (pending []firerunner.Job, _ error) {
	if err := w.called(); err != nil {
		return nil, err
	}
	for _, j := range w.jobs {
		if project == w.project && j.Status == firerunner.JobPending {
			pending = append(pending, j.Job)
		}
	}
	slices.SortFunc(pending, func(a, b firerunner.Job) int { return cmp.Compare(a.ID, b.ID) })
	return pending, nil
}

// FailJob is the word of a job itself. Nothing in this world gives a reason for it.
func (w *world) FailJob(_ context.Context, id int64, _ firerunner.Secret, why string) (bool, error) {
	w.fail("GitLab is told that job %d failed: %s", id, why)
	return false, nil
}

func (w *world) Check(context.Context) (firerunner.GitLabCheck, error) {
	return firerunner.GitLabCheck{}, w.called()
}

// modelDriver is the world's firerunner.Driver.
type modelDriver struct{ w *world }

func (d modelDriver) Name() string                { return "model" }
func (d modelDriver) Probe(context.Context) error { return nil }

func (d modelDriver) Create(_ context.Context, spec firerunner.MicroVMSpec) (firerunner.MicroVM, error) {
	err := d.w.createErr
	if err != nil && d.w.createUnclear == nil {
		return firerunner.MicroVM{}, err
	}
	if d.w.vms[spec.ID] == nil {
		d.w.vms[spec.ID] = &modelVM{spec: spec, token: spec.Start.Token.Reveal(), alive: true}
	}
	if err != nil {
		d.w.createUnclear(spec.ID)
		return firerunner.MicroVM{}, err
	}
	return firerunner.MicroVM{ID: spec.ID, Alive: true}, nil
}

// Destroy is where a job would be killed: nothing in this world gives a reason to.
func (d modelDriver) Destroy(_ context.Context, id string) error {
	if vm := d.w.vms[id]; vm != nil && vm.alive && vm.job != 0 && d.w.jobs[vm.job].Status == firerunner.JobRunning {
		r, _ := d.w.store.Runner(context.Background(), id)
		d.w.fail("microVM %s is destroyed while job %d runs in it: %s, %s", id, vm.job, r.Reason, r.Message)
	}
	delete(d.w.vms, id)
	return nil
}

func (d modelDriver) List(context.Context) (all []firerunner.MicroVM, _ error) {
	if d.w.listErr != nil {
		return nil, d.w.listErr
	}
	for id, vm := range d.w.vms {
		all = append(all, firerunner.MicroVM{ID: id, Alive: vm.alive})
	}
	return all, nil
}

func (d modelDriver) Follow(ctx context.Context, _ string, _ int64, _ func(firerunner.GuestReport) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func (d modelDriver) Order(context.Context, string, firerunner.GuestOrder) error { return nil }
