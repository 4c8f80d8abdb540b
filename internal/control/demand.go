package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// How fast runners that were rejected are replaced: the pause doubles with each in a row, so that a broken image does
// not make microVMs in a circle.
const (
	firstPause     = 2 * time.Second
	longestPause   = 2 * time.Minute
	rejectedWindow = 10 * time.Minute
)

// demand is StepDemand: it makes supply equal to demand for one project and one set of tags. Supply is counted and
// never matched by name, because GitLab gives a job to any runner that fits.
func (c *Control) demand(ctx context.Context, s firerunner.Step) error {
	d := firerunner.Demand{ProjectID: s.ProjectID, Tags: s.Tags}
	var idle []firerunner.Runner // surplus that may have taken a job without our knowing
	var wait time.Duration
	err := c.update(ctx, func(ch *change) error {
		idle, wait = nil, 0
		jobs, supply, recent, stale, err := c.count(ctx, ch, d)
		if err != nil {
			return err
		}
		for _, id := range stale {
			if err := ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: d.ProjectID, JobID: id}); err != nil {
				return err
			}
		}
		switch missing := len(jobs) - len(supply); {
		case missing > 0:
			wait, err = c.supply(ctx, ch, d, jobs, recent, missing)
			return err
		case missing < 0:
			idle, err = c.dismiss(ctx, ch, supply, -missing)
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range idle {
		if err := c.retire(ctx, r.ID, firerunner.Cancelled, firerunner.ReasonNoDemand, "demand", "no pending job wants it any more"); err != nil {
			return err
		}
	}
	if wait > 0 {
		return firerunner.Later(wait, "earlier runners for this demand were rejected")
	}
	return nil
}

// count returns the pending jobs that want a runner, oldest first, and the runners that may still take one, least
// advanced first. A job that a live guest of the same demand says it took does not want another. Nor, for now, does one
// that was taken by a guest which has ended since GitLab was last asked: it is stale, and to be read before it counts. Where
// jobs are pending, the demand's recent runners are returned too.
func (c *Control) count(ctx context.Context, rd firerunner.Reader, d firerunner.Demand) (jobs []firerunner.Job, supply, recent []firerunner.Runner, stale []int64, err error) {
	jobs, err = rd.Jobs(ctx, firerunner.JobQuery{Demand: &d, Statuses: []firerunner.JobStatus{firerunner.JobPending}, OursOnly: true})
	if err != nil {
		return nil, nil, nil, nil, err
	}
	live, err := rd.Runners(ctx, firerunner.RunnerQuery{Live: true, Demand: &d})
	if err != nil {
		return nil, nil, nil, nil, err
	}
	taken := map[int64]bool{}
	for _, r := range live {
		if r.JobID != 0 {
			taken[r.JobID] = true
		}
	}
	jobs = slices.DeleteFunc(jobs, func(j firerunner.Job) bool { return !j.Wants() || taken[j.ID] })
	if len(jobs) > 0 {
		if recent, err = c.recent(ctx, rd, d); err != nil {
			return nil, nil, nil, nil, err
		}
		ended := ended(recent)
		jobs = slices.DeleteFunc(jobs, func(j firerunner.Job) bool {
			unread := ended[j.ID].After(j.SeenAt)
			if unread {
				stale = append(stale, j.ID)
			}
			return unread
		})
	}
	supply = slices.DeleteFunc(live, func(r firerunner.Runner) bool { return !r.Supply() })
	slices.SortStableFunc(supply, func(a, b firerunner.Runner) int { return int(a.State) - int(b.State) })
	return jobs, supply, recent, stale, nil
}

// recentMost is how many of a demand's runners its recent ones are at most.
const recentMost = 64

// recent returns the last runners of a demand that were made not long ago, the latest first. The store is asked for the
// latest alone: it need not look at all that were made since.
func (c *Control) recent(ctx context.Context, rd firerunner.Reader, d firerunner.Demand) ([]firerunner.Runner, error) {
	latest, err := rd.Runners(ctx, firerunner.RunnerQuery{Demand: &d, Limit: recentMost})
	since := c.Now().Add(-rejectedWindow)
	return slices.DeleteFunc(latest, func(r firerunner.Runner) bool { return r.CreatedAt.Before(since) }), err
}

// ended returns when the runners of a demand ended that took a job, by the job: of recent ones, because a job that was
// taken long ago is not pending by any account.
func ended(recent []firerunner.Runner) map[int64]time.Time {
	at := map[int64]time.Time{}
	for _, r := range recent {
		if r.JobID != 0 && !r.Live() && r.MovedAt.After(at[r.JobID]) {
			at[r.JobID] = r.MovedAt
		}
	}
	return at
}

// supply queues the runners that are missing, as far as the queue has room. It returns how long to wait where earlier
// ones were rejected.
func (c *Control) supply(ctx context.Context, ch *change, d firerunner.Demand, jobs []firerunner.Job, recent []firerunner.Runner, missing int) (time.Duration, error) {
	if !c.takesWork() {
		return 0, nil
	}
	if wait := c.pause(recent); wait > 0 {
		return wait, nil
	}
	newest := jobs[len(jobs)-1] // all of one demand have the same tags, so the same profile and size
	wait, missing, err := c.suspects(ctx, ch, c.imageOf(firerunner.Runner{Profile: newest.Profile}), missing)
	if err != nil || wait > 0 {
		return wait, err
	}
	queued, err := ch.Runners(ctx, firerunner.RunnerQuery{States: []firerunner.State{firerunner.Queued}})
	if err != nil {
		return 0, err
	}
	room := c.set().QueueSize - len(queued)
	if room < missing {
		c.Logger.Warn("the queue is full; jobs wait in GitLab until it has room",
			"limit", c.set().QueueSize, "project", d.ProjectID, "waiting", missing-max(room, 0), "reason", firerunner.ReasonQueueFull)
	}
	size, why := c.fit(newest.Size)
	for range min(missing, room) {
		r := firerunner.NewRunner(c.NewID(), d, c.Now())
		r.Profile, r.Size = newest.Profile, size
		r.Message = "waits for placement"
		if err := ch.CreateRunner(ctx, r); err != nil {
			return 0, err
		}
		message := fmt.Sprintf("%d pending, %s, profile %s", len(jobs), r.Size, r.Profile)
		if why != "" {
			message += fmt.Sprintf("; %s was asked for: %s", newest.Size, why)
		}
		if err := c.note(ctx, ch, r, firerunner.EventQueued, "demand", message); err != nil {
			return 0, err
		}
	}
	return 0, ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace})
}

// fit returns the size that the driver makes of one that was asked for, and why where it is another.
func (c *Control) fit(asked firerunner.Size) (fitted firerunner.Size, why string) {
	if c.Fit == nil {
		return asked, ""
	}
	return c.Fit(asked)
}

// pause returns how long to wait before the next runner of a demand whose last ones were all rejected. Runners that
// were made together count once: ten jobs that meet one broken image are one failure.
func (c *Control) pause(recent []firerunner.Runner) time.Duration {
	var last, made time.Time
	pause := time.Duration(0)
	for _, r := range recent { // latest first
		if r.Outcome == "" || r.Reason == firerunner.ReasonHostLost { // another host will do
			continue
		}
		if r.MovedAt.After(c.Now()) { // the clock went back since: it would be waited for until it is there again
			continue
		}
		if r.Outcome != firerunner.Rejected {
			break
		}
		if r.MovedAt.After(last) {
			last = r.MovedAt
		}
		if made.IsZero() || made.Sub(r.CreatedAt) > time.Second {
			pause = min(max(2*pause, firstPause), longestPause)
		}
		made = r.CreatedAt
	}
	if pause == 0 {
		return 0
	}
	return max(last.Add(pause).Sub(c.Now()), 0)
}

// dismiss ends the surplus, the least advanced first. A runner whose guest holds a credential may have taken a job a
// moment ago, so it is returned to be retired with care.
func (c *Control) dismiss(ctx context.Context, ch *change, supply []firerunner.Runner, surplus int) (idle []firerunner.Runner, err error) {
	for i := range min(surplus, len(supply)) {
		r := supply[i]
		if mayHaveJob(r) {
			idle = append(idle, r)
			continue
		}
		if err := c.end(ctx, ch, &r, firerunner.Cancelled, firerunner.ReasonNoDemand, "demand", "no pending job wants it any more"); err != nil {
			return nil, err
		}
	}
	return idle, nil
}

// mayHaveJob reports whether a guest may hold the runner's credential, so that it may have taken a job without our
// knowing: its reports come later than it acts, and after a crash of ours much later.
func mayHaveJob(r firerunner.Runner) bool {
	return r.GitLabID > 0 && r.State < firerunner.Running && r.JobID == 0
}

// hasJob finds out whether a runner that may have a job has one, or had one, and writes it down. GitLab is told to give it none,
// then asked, so that a job taken in this very moment is not killed. One that has ended already is read, which ends the
// runner as what the job was: what its guest said of it is not heard yet.
func (c *Control) hasJob(ctx context.Context, r firerunner.Runner) (bool, error) {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	if err := c.GitLab.PauseRunner(callCtx, r.GitLabID); err != nil && firerunner.CodeOf(err) != firerunner.NotFound {
		return false, fmt.Errorf("pausing the GitLab runner of %s before it ends: %w", r.ID, err)
	}
	jobs, err := c.GitLab.RunnerJobs(callCtx, r.GitLabID)
	if err != nil && firerunner.CodeOf(err) != firerunner.NotFound {
		return false, fmt.Errorf("asking whether %s has a job before it ends: %w", r.ID, err)
	}
	if len(jobs) == 0 {
		return false, nil
	}
	job := jobs[0]
	for _, j := range jobs[1:] { // others were cancelled before they began
		if job.Status == firerunner.JobCanceled || !j.Status.Final() {
			job = j
		}
	}
	return true, c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, r.ID)
		if err != nil || r.State >= firerunner.Running {
			return err
		}
		if err := c.tookJob(ctx, ch, &r, job.ID, "gitlab", ""); err != nil {
			return err
		}
		return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: r.Demand.ProjectID, JobID: job.ID})
	})
}

// retire ends a runner that has not begun, unless it has a job after all.
func (c *Control) retire(ctx context.Context, id string, o firerunner.Outcome, why firerunner.Reason, actor, message string) error {
	r, err := c.Store.Runner(ctx, id)
	if err != nil {
		return err
	}
	if mayHaveJob(r) {
		if has, err := c.hasJob(ctx, r); err != nil || has {
			return err
		}
	}
	return c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, id)
		if err != nil || r.State > firerunner.Ready || r.JobID != 0 {
			return err // it moved on meanwhile
		}
		return c.end(ctx, ch, &r, o, why, actor, message)
	})
}
