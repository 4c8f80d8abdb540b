package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// What GitLab is told of a job whose microVM died under it. The guest's gitlab-runner is the one that speaks for a job;
// where it ended without a word, GitLab would wait an hour for it. So its guest seals the job's token when it takes the job
// (firerunner.JobKey), and the first thing that Stopping does is to use it.
//
// The row has a key for exactly as long as GitLab may have to be told: it goes when the guest itself says how its job
// ended, when GitLab was told, and with the runner. A crash in between tells GitLab again, which refuses the second time.

// failJobWithin bounds one try, so that a GitLab which hangs does not hold up the removal of the microVM.
const failJobWithin = 10 * time.Second

// failJobLimit is for how long it is tried, where the configuration does not say.
const failJobLimit = 10 * time.Minute

// sealTo is the public key for the guests, or none where nobody could use what they seal.
func (c *Control) sealTo() string {
	if c.SealKeys == nil || c.failer == nil {
		return ""
	}
	public, err := c.SealKeys.Public()
	if err != nil { // then GitLab cannot be asked for anything else either
		c.Logger.Warn("a guest gets no key to seal its job's token for", "error", err, "hint", firerunner.HintOf(err))
		return ""
	}
	return public
}

// keepKey takes up the key that came with a guest's word that it took the runner's job. It reports whether that is news.
func keepKey(r *firerunner.Runner, key firerunner.JobKey) bool {
	if key == "" || r.JobKey == key || r.Outcome != "" || !key.Valid() {
		return false
	}
	r.JobKey = key
	return true
}

// mustFailJob reports whether a runner that is being stopped had a job of whose end nobody has told yet.
func (c *Control) mustFailJob(r firerunner.Runner) bool {
	if r.JobKey == "" || r.JobID == 0 || c.SealKeys == nil || c.failer == nil {
		return false
	}
	switch r.Reason {
	case firerunner.ReasonJobDone, firerunner.ReasonJobCancelled:
		return false
	}
	return true
}

// failJob tells GitLab that the job of a runner failed, where it must be told. An error means that it is to be tried again;
// after deadlines.fail_job there is none any more, and GitLab's own sweep is left to find the job.
func (c *Control) failJob(ctx context.Context, r firerunner.Runner) error {
	if !c.mustFailJob(r) {
		return nil
	}
	err := c.tryFailJob(ctx, r)
	if err == nil || ctx.Err() != nil || c.Now().Sub(r.MovedAt) < c.set().Deadlines.FailJob {
		return err
	}
	return c.spoken(ctx, r, fmt.Sprintf("GitLab could not be told within %s that job %d failed, and finds out by itself in an hour: %s",
		c.set().Deadlines.FailJob, r.JobID, brief(err)))
}

func (c *Control) tryFailJob(ctx context.Context, r firerunner.Runner) error {
	callCtx, cancel := context.WithTimeout(ctx, min(c.CallTimeout, failJobWithin))
	defer cancel()
	job, err := c.GitLab.Job(callCtx, r.Demand.ProjectID, r.JobID)
	switch {
	case firerunner.CodeOf(err) == firerunner.NotFound:
		return c.spoken(ctx, r, "")
	case err != nil:
		return fmt.Errorf("reading job %d before GitLab is told that it failed: %w", r.JobID, err)
	case job.Status == firerunner.JobFailed && job.Failure == firerunner.SystemFailure: // by us, before a crash
		return c.spoken(ctx, r, fmt.Sprintf("job %d is failed as %s in GitLab", r.JobID, firerunner.SystemFailure))
	case job.Status != firerunner.JobRunning, job.GitLabID != 0 && job.GitLabID != r.GitLabID:
		return c.spoken(ctx, r, "") // it ended, was cancelled, or is not this runner's: there is nothing to say
	}
	token, err := c.SealKeys.Open(r.JobKey, r.ID, r.JobID)
	if firerunner.CodeOf(err) == firerunner.Unauthorized {
		return c.spoken(ctx, r, fmt.Sprintf("GitLab cannot be told that job %d failed, and finds out by itself in an hour: its key does not open "+
			"(was FireRunner's token replaced meanwhile?)", r.JobID))
	}
	if err != nil {
		return fmt.Errorf("opening the key of job %d: %w", r.JobID, err)
	}
	told, err := c.failer.FailJob(callCtx, r.JobID, token, fmt.Sprintf("the microVM of this job is gone (%s): %s", r.Reason, brief(errors.New(r.Message))))
	if err != nil {
		return fmt.Errorf("telling GitLab that job %d failed: %w", r.JobID, err)
	}
	if !told {
		return c.spoken(ctx, r, fmt.Sprintf("GitLab takes no word on job %d any more", r.JobID))
	}
	return c.spoken(ctx, r, fmt.Sprintf("GitLab was told that job %d failed as %s", r.JobID, firerunner.SystemFailure))
}

// spoken writes down that there is no more to say about a runner's job, with an event where something was said, and asks
// GitLab what it makes of the job.
func (c *Control) spoken(ctx context.Context, r firerunner.Runner, message string) error {
	return c.update(ctx, func(ch *change) error {
		fresh, err := ch.Runner(ctx, r.ID)
		if err != nil || fresh.JobKey == "" {
			return err
		}
		fresh.JobKey = ""
		if err := ch.SaveRunner(ctx, &fresh); err != nil {
			return err
		}
		if message != "" {
			if err := ch.event(ctx, firerunner.Event{
				At: c.Now(), Kind: firerunner.EventFailedFor, RunnerID: r.ID, JobID: r.JobID, ProjectID: r.Demand.ProjectID,
				From: fresh.State, To: fresh.State, Actor: string(firerunner.OwnerStop), Reason: fresh.Reason, Message: message,
			}); err != nil {
				return err
			}
		}
		return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: r.Demand.ProjectID, JobID: r.JobID})
	})
}
