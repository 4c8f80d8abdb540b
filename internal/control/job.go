package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// readJob is StepReadJob: a hook, a guest or a sweep hinted at a job; GitLab says what is true.
func (c *Control) readJob(ctx context.Context, s firerunner.Step) error {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	seen, err := c.GitLab.Job(callCtx, s.ProjectID, s.JobID)
	if firerunner.CodeOf(err) == firerunner.NotFound {
		return c.update(ctx, func(ch *change) error { return c.forget(ctx, ch, s) })
	}
	if err != nil {
		return fmt.Errorf("reading job %d of project %d: %w", s.JobID, s.ProjectID, err)
	}
	next, err := c.secondJob(callCtx, seen)
	if err != nil {
		return err
	}
	var wait time.Duration
	err = c.update(ctx, func(ch *change) (err error) {
		if next != nil {
			if err := c.see(ctx, ch, *next, "gitlab"); err != nil {
				return err
			}
		}
		if err := c.see(ctx, ch, seen, "intake"); err != nil {
			return err
		}
		wait, err = c.doubt(ctx, ch, seen)
		return err
	})
	if err == nil && wait > 0 {
		return firerunner.Later(wait, "a guest says that it took the job and GitLab does not")
	}
	return err
}

// claimGrace is how long GitLab may not know yet what a guest says: that it took a pending job.
const claimGrace = 10 * time.Second

// doubt ends a runner whose guest claims a job that still waits in GitLab: as long as it is believed, the job gets no
// runner of its own. It returns when to look again, where the claim is fresh.
func (c *Control) doubt(ctx context.Context, ch *change, seen firerunner.Job) (wait time.Duration, err error) {
	if seen.Status != firerunner.JobPending || seen.GitLabID != 0 {
		return 0, nil
	}
	running, err := ch.Runners(ctx, firerunner.RunnerQuery{States: []firerunner.State{firerunner.Running}, JobID: seen.ID})
	if err != nil {
		return 0, err
	}
	for _, r := range running {
		if r.Demand.ProjectID != seen.ProjectID || r.Desired == firerunner.Unwanted {
			continue
		}
		if left := claimGrace - c.Now().Sub(r.MovedAt); left > 0 {
			wait = max(wait, left)
			continue
		}
		if err := c.refute(ctx, ch, seen.ProjectID, seen.ID, ""); err != nil {
			return 0, err
		}
	}
	return wait, nil
}

// secondJob finds the job that a runner took after its first one was cancelled between hand-out and start: the real
// gitlab-runner does not count that one against --max-builds and asks again at once. Without this look the second job
// would die with the first one's cancellation. The runner is paused first, so that there is no third.
func (c *Control) secondJob(ctx context.Context, seen firerunner.Job) (*firerunner.Job, error) {
	if seen.Status != firerunner.JobCanceled || seen.GitLabID == 0 {
		return nil, nil
	}
	rs, err := c.Store.Runners(ctx, firerunner.RunnerQuery{GitLabID: seen.GitLabID, Live: true})
	if err != nil || len(rs) == 0 || rs[0].Desired == firerunner.Unwanted {
		return nil, err
	}
	if err := c.GitLab.PauseRunner(ctx, seen.GitLabID); err != nil && firerunner.CodeOf(err) != firerunner.NotFound {
		return nil, fmt.Errorf("pausing the GitLab runner of cancelled job %d: %w", seen.ID, err)
	}
	jobs, err := c.GitLab.RunnerJobs(ctx, seen.GitLabID)
	if err != nil && firerunner.CodeOf(err) != firerunner.NotFound {
		return nil, fmt.Errorf("asking whether the runner of cancelled job %d has another: %w", seen.ID, err)
	}
	for _, j := range jobs {
		if j.ID == seen.ID || j.Status == firerunner.JobCanceled {
			continue
		}
		j, err := c.GitLab.Job(ctx, seen.ProjectID, j.ID)
		if err != nil {
			return nil, fmt.Errorf("reading the second job of a runner: %w", err)
		}
		return &j, nil
	}
	return nil, nil
}

// forget handles a job that GitLab does not know (any more): it was deleted, a guest invented it, or our token has lost
// its project. A job that GitLab once said runs on one of ours is left alone: the gitlab-runner of a deleted job hears of
// it from GitLab itself, and a token that lost its project must not end what runs.
func (c *Control) forget(ctx context.Context, ch *change, s firerunner.Step) error {
	known, err := ch.Job(ctx, s.JobID)
	if err != nil && firerunner.CodeOf(err) != firerunner.NotFound {
		return err
	}
	if err == nil && known.RunnerID != "" {
		return nil
	}
	if err := c.refute(ctx, ch, s.ProjectID, s.JobID, ""); err != nil {
		return err
	}
	if err != nil || known.Status.Final() || known.ProjectID != s.ProjectID {
		return nil
	}
	known.Status = firerunner.JobCanceled
	return c.see(ctx, ch, known, "intake")
}

// see writes down what GitLab says of a job and draws the conclusions: who runs it, whether a runner's job has ended,
// whether supply still equals demand.
func (c *Control) see(ctx context.Context, ch *change, seen firerunner.Job, actor string) error {
	seen.SeenAt = c.Now()
	c.classify(&seen)
	known, err := ch.Job(ctx, seen.ID)
	first := firerunner.CodeOf(err) == firerunner.NotFound
	if err != nil && !first {
		return err
	}
	var runner *firerunner.Runner
	if seen.GitLabID != 0 {
		rs, err := ch.Runners(ctx, firerunner.RunnerQuery{GitLabID: seen.GitLabID})
		if err != nil {
			return err
		}
		if len(rs) > 0 && rs[0].Demand.ProjectID == seen.ProjectID {
			runner, seen.RunnerID = &rs[0], rs[0].ID
		}
	}
	if seen.GitLabID == 0 && seen.Status.Rank() >= firerunner.JobRunning.Rank() && known.RunnerID == "" {
		if seen.RunnerID, err = c.claimant(ctx, ch, seen); err != nil {
			return err
		}
	}
	if !seen.Ours && runner == nil && (first || !known.Ours) {
		return nil // nobody asked us
	}
	job, err := ch.SaveJob(ctx, seen)
	if err != nil {
		return err
	}
	if err := c.noticeProject(ctx, ch, job, known); err != nil {
		return err
	}
	if first || known.Status != job.Status {
		if err := c.tell(ctx, ch, job, first, actor); err != nil {
			return err
		}
	}
	if runner != nil {
		if err := c.believe(ctx, ch, runner, job); err != nil {
			return err
		}
	}
	if seen.GitLabID != 0 {
		if err := c.refute(ctx, ch, job.ProjectID, job.ID, job.RunnerID); err != nil {
			return err
		}
	}
	return ch.Enqueue(ctx, demandStep(job.Demand()))
}

// projectNoticeInterval is how exactly it is known when something was heard of a project.
const projectNoticeInterval = time.Minute

// noticeProject writes down that something was heard of the project of a job, unless that was done a moment ago, when the job
// was seen before.
func (c *Control) noticeProject(ctx context.Context, ch *change, job, before firerunner.Job) error {
	if since := job.SeenAt.Sub(before.SeenAt); since >= 0 && since < projectNoticeInterval {
		return nil
	}
	return ch.SaveProject(ctx, firerunner.Project{ID: job.ProjectID, Path: job.ProjectPath, SeenAt: c.Now()})
}

// claimant returns our runner whose guest said that it took a job, where GitLab does not say any more who did: it
// forgets a runner that is deleted, and ours are, as soon as their job ends.
func (c *Control) claimant(ctx context.Context, rd firerunner.Reader, job firerunner.Job) (string, error) {
	d := job.Demand()
	latest, err := rd.Runners(ctx, firerunner.RunnerQuery{Demand: &d, JobID: job.ID, Limit: 1})
	if err != nil || len(latest) == 0 {
		return "", err
	}
	return latest[0].ID, nil
}

// tell appends the events of a sight: its status, and once the refusal.
func (c *Control) tell(ctx context.Context, ch *change, job firerunner.Job, first bool, actor string) error {
	e := firerunner.Event{
		At: c.Now(), Kind: firerunner.EventJobSeen, JobID: job.ID, ProjectID: job.ProjectID,
		RunnerID: job.RunnerID, Actor: actor, Message: string(job.Status),
	}
	if err := ch.event(ctx, e); err != nil {
		return err
	}
	if first && job.Refused != "" && !job.Status.Final() {
		e.Kind, e.Reason, e.Message = firerunner.EventJobRefused, job.Refused, job.Message
		return ch.event(ctx, e)
	}
	return nil
}

// believe applies GitLab's word on who runs a job to the runner that has it.
func (c *Control) believe(ctx context.Context, ch *change, r *firerunner.Runner, job firerunner.Job) error {
	if !job.Status.Final() {
		return c.tookJob(ctx, ch, r, job.ID, "gitlab", "")
	}
	if r.JobID != 0 && r.JobID != job.ID { // it took another one since: this job's end is not its end
		return nil
	}
	if err := c.tookJob(ctx, ch, r, job.ID, "gitlab", ""); err != nil { // where nobody had said so yet
		return err
	}
	outcome := firerunner.Failed
	switch job.Status {
	case firerunner.JobSuccess:
		outcome = firerunner.Succeeded
	case firerunner.JobCanceled, firerunner.JobSkipped:
		outcome = firerunner.Cancelled
	}
	reason := firerunner.ReasonJobDone
	if outcome == firerunner.Cancelled {
		reason = firerunner.ReasonJobCancelled
	}
	return c.end(ctx, ch, r, outcome, reason, "gitlab", fmt.Sprintf("job %d is %s in GitLab", job.ID, job.Status))
}

// refute ends a runner whose guest claimed a job that GitLab gave to somebody else, or does not know. owner is our
// runner that GitLab says has it, or empty.
func (c *Control) refute(ctx context.Context, ch *change, projectID, jobID int64, owner string) error {
	running, err := ch.Runners(ctx, firerunner.RunnerQuery{States: []firerunner.State{firerunner.Running}, JobID: jobID})
	if err != nil {
		return err
	}
	for _, r := range running {
		if r.ID == owner || r.Demand.ProjectID != projectID {
			continue
		}
		if err := c.end(ctx, ch, &r, firerunner.Failed, firerunner.ReasonGuestError, "control",
			fmt.Sprintf("the guest claimed job %d, which GitLab did not give to it", jobID)); err != nil {
			return err
		}
	}
	return nil
}

// classify decides from its tags whether a job is ours, and with which profile and size.
func (c *Control) classify(j *firerunner.Job) {
	var sizes []firerunner.Size
	var profiles []firerunner.Profile
	for _, tag := range j.Tags.List() {
		if s, ok := firerunner.ParseSizeTag(tag); ok {
			sizes = append(sizes, s)
		}
		for _, p := range c.set().Profiles {
			if slices.Contains(p.Tags, tag) && !slices.ContainsFunc(profiles, func(q firerunner.Profile) bool { return q.Name == p.Name }) {
				profiles = append(profiles, p)
			}
		}
	}
	if len(sizes) == 0 && len(profiles) == 0 {
		return
	}
	j.Ours = true
	if len(profiles) > 1 {
		names := make([]string, len(profiles))
		for i, p := range profiles {
			names[i] = p.Name
		}
		j.Refused = firerunner.ReasonProfile
		j.Message = fmt.Sprintf("its tags choose %d profiles (%s); use the tag of one", len(profiles), strings.Join(names, ", "))
		return
	}
	if len(profiles) == 0 {
		p, ok := c.profile(firerunner.DefaultProfile)
		if !ok {
			j.Refused, j.Message = firerunner.ReasonProfile, "there is no default profile for jobs that choose by size alone"
			return
		}
		profiles = []firerunner.Profile{p}
	}
	profile := profiles[0]
	size := profile.Default
	switch len(sizes) {
	case 0:
	case 1:
		size.VCPUs, size.MemoryMiB = sizes[0].VCPUs, sizes[0].MemoryMiB
	default:
		j.Refused = firerunner.ReasonSizeAmbiguous
		j.Message = fmt.Sprintf("its tags ask for %d sizes; use one firecracker-{N}cpu-{M}gb tag", len(sizes))
		return
	}
	if err := profile.Limits.Check(size); err != nil {
		j.Refused, j.Message = firerunner.ReasonSizeRefused, fmt.Sprintf("%v (profile %s)", err, profile.Name)
		return
	}
	if fitted, why := c.fit(size); fitted == (firerunner.Size{}) {
		j.Refused, j.Message = firerunner.ReasonSizeRefused, fmt.Sprintf("size %s cannot be made: %s", size, why)
		return
	}
	j.Profile, j.Size = profile.Name, size
}
