package control

import (
	"context"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// watchRetry is the pause before a guest's reports are asked for again after a failure that is not the microVM's end.
const watchRetry = time.Second

// watch listens to one guest until its microVM has ended and every report is applied. After a crash the next process
// goes on behind the last report that was written down. There is one for each runner, and nearly all of its time it waits in
// Follow: a runner is no variable of it, because its stack would keep the room.
func (c *Control) watch(ctx context.Context, id string) {
	report := func(rep firerunner.GuestReport) error { return c.apply(ctx, id, rep) }
	for ctx.Err() == nil {
		after, listens, err := c.heard(ctx, id)
		if err == nil && !listens {
			return
		}
		if err == nil {
			err = c.Driver.Follow(ctx, id, after, report)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				return // the last report was applied
			case firerunner.CodeOf(err) == firerunner.NotFound:
				if err = c.lost(ctx, id); err == nil {
					return
				}
			}
		}
		c.lostTouch(ctx, id, err)
	}
}

// heard returns the number of the last report that was applied, and whether there is anything left to hear.
func (c *Control) heard(ctx context.Context, id string) (after int64, listens bool, err error) {
	r, err := c.Store.Runner(ctx, id)
	return r.Report, err == nil && r.State >= firerunner.Booting && r.State < firerunner.Stopping, err
}

// lostTouch says so and waits a while.
func (c *Control) lostTouch(ctx context.Context, id string, err error) {
	c.Logger.Warn("lost touch with a guest; trying again", "runner", id, "in", watchRetry, "error", err)
	select {
	case <-ctx.Done():
	case <-time.After(watchRetry):
	}
}

// apply writes one report's meaning and its number in one transaction, so that each counts once.
func (c *Control) apply(ctx context.Context, id string, rep firerunner.GuestReport) error {
	return c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, id)
		if err != nil {
			return err
		}
		if rep.Seq <= r.Report || r.State >= firerunner.Stopping { // known, or too late to matter
			return nil
		}
		r.Report = rep.Seq
		version := r.Version
		if err := c.mean(ctx, ch, &r, rep); err != nil || r.Version != version {
			return err // what was saved had the number in it
		}
		return ch.SaveRunner(ctx, &r)
	})
}

// mean does what a report means. What it saves of the runner has the report's number.
func (c *Control) mean(ctx context.Context, ch *change, r *firerunner.Runner, rep firerunner.GuestReport) error {
	if r.State < firerunner.Booting {
		return nil
	}
	switch rep.Kind {
	case firerunner.ReportHello:
		if r.State != firerunner.Booting {
			return nil
		}
		if err := c.move(ctx, ch, r, firerunner.Ready, firerunner.OwnerWatch, rep.Message); err != nil || r.JobID == 0 {
			return err
		}
		return c.tookJob(ctx, ch, r, r.JobID, "gitlab", "") // GitLab was faster
	case firerunner.ReportStarted:
		return c.note(ctx, ch, *r, firerunner.EventNotice, "guest", "gitlab-runner started")
	case firerunner.ReportTookJob:
		if err := c.tookJob(ctx, ch, r, rep.JobID, "guest", rep.JobKey); err != nil {
			return err
		}
		return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: r.Demand.ProjectID, JobID: rep.JobID})
	case firerunner.ReportJobDone:
		return c.jobDone(ctx, ch, r, rep)
	case firerunner.ReportNotice:
		return c.note(ctx, ch, *r, firerunner.EventNotice, "guest", rep.Message)
	case firerunner.ReportRunnerExited:
		return c.runnerExited(ctx, ch, r, rep)
	case firerunner.ReportError:
		return c.fault(ctx, ch, r, firerunner.ReasonGuestError, "guest", "the guest cannot work: "+rep.Message)
	case firerunner.ReportExited:
		return c.fault(ctx, ch, r, firerunner.ReasonVMExited, "driver", "the microVM ended: "+rep.Message)
	}
	return nil
}

// tookJob writes that a runner took a job, on the guest's word or GitLab's: Ready → Running. GitLab may know it before
// the guest's hello is read; then the job is noted, which is enough to keep the runner from being ended for want of one.
// A second job replaces the first: gitlab-runner asks again where the first was cancelled before it began. key came with the
// guest's word, or is empty.
func (c *Control) tookJob(ctx context.Context, ch *change, r *firerunner.Runner, jobID int64, actor string, key firerunner.JobKey) error {
	known := r.JobID == jobID
	switch {
	case r.State > firerunner.Running:
		return nil
	case known && r.State != firerunner.Ready:
		if !keepKey(r, key) {
			return nil
		}
		return ch.SaveRunner(ctx, r)
	case r.State < firerunner.Ready && (actor == "guest" || r.GitLabID <= 0):
		return nil
	}
	if !known {
		r.JobKey = "" // the one before's
	}
	r.JobID = jobID
	keepKey(r, key)
	if r.State == firerunner.Ready {
		if err := c.move(ctx, ch, r, firerunner.Running, firerunner.OwnerWatch, fmt.Sprintf("took job %d", jobID)); err != nil {
			return err
		}
	} else {
		if r.State < firerunner.Ready {
			r.Deadline = c.jobDeadline(*r)
		}
		if err := ch.SaveRunner(ctx, r); err != nil {
			return err
		}
	}
	if known {
		return nil
	}
	if err := c.note(ctx, ch, *r, firerunner.EventTookJob, actor, fmt.Sprintf("job %d", jobID)); err != nil {
		return err
	}
	return c.note(ctx, ch, *r, firerunner.EventNotice, "watch",
		"the job runs directly on the microVM's system (shell executor): its image: and services: are not honoured")
}

// jobDeadline is the deadline of a runner that has a job before its guest has said hello: that of Running.
func (c *Control) jobDeadline(r firerunner.Runner) time.Time {
	if limit := c.set().Deadlines.Of(firerunner.Running); limit > 0 {
		return c.Now().Add(limit)
	}
	return r.Deadline
}

// failureCancelled is how gitlab-runner calls the end of a job that was cancelled in GitLab:
// https://gitlab.com/gitlab-org/gitlab-runner/-/blob/main/common/network.go (JobFailureReason).
const failureCancelled = "job_canceled"

// jobDone notes the outcome. The runner goes on until gitlab-runner has ended: it still has to tell GitLab.
func (c *Control) jobDone(ctx context.Context, ch *change, r *firerunner.Runner, rep firerunner.GuestReport) error {
	if r.JobID != rep.JobID || r.Outcome != "" {
		return nil
	}
	var message string
	switch {
	case rep.Success:
		r.Outcome, message = firerunner.Succeeded, fmt.Sprintf("job %d succeeded", rep.JobID)
	case rep.Failure == failureCancelled:
		r.Outcome, message = firerunner.Cancelled, fmt.Sprintf("job %d was cancelled", rep.JobID)
	default:
		r.Outcome = firerunner.Failed
		message = fmt.Sprintf("job %d failed: %s, exit code %d", rep.JobID, rep.Failure, rep.ExitCode)
	}
	r.JobKey = "" // its own gitlab-runner has told GitLab, or is about to
	if limit := c.Now().Add(c.set().Deadlines.RunningGrace); r.Deadline.IsZero() || limit.Before(r.Deadline) {
		r.Deadline = limit
	}
	if err := ch.SaveRunner(ctx, r); err != nil {
		return err
	}
	return c.note(ctx, ch, *r, firerunner.EventNotice, "guest", message)
}

// runnerExited ends the runner: gitlab-runner is what it was for.
func (c *Control) runnerExited(ctx context.Context, ch *change, r *firerunner.Runner, rep firerunner.GuestReport) error {
	o, why := firerunner.Failed, firerunner.ReasonRunnerExited
	message := fmt.Sprintf("gitlab-runner ended with status %d without a result: %s", rep.ExitCode, rep.Message)
	switch {
	case r.Outcome == firerunner.Cancelled:
		o, why, message = r.Outcome, firerunner.ReasonJobCancelled, fmt.Sprintf("job %d was cancelled", r.JobID)
	case r.Outcome != "":
		o, why, message = r.Outcome, firerunner.ReasonJobDone, fmt.Sprintf("job %d is done", r.JobID)
	case r.JobID == 0 && rep.ExitCode == 0 && c.Now().Sub(r.MovedAt) < c.waitTimeout()/2:
		o, message = firerunner.Rejected, "gitlab-runner ended long before its time to wait for a job was over: "+rep.Message
	case r.JobID == 0 && rep.ExitCode == 0:
		o, why, message = firerunner.Cancelled, firerunner.ReasonNoJob, "GitLab gave it no job in time"
	case r.JobID == 0:
		o = firerunner.Rejected
	}
	return c.finish(ctx, ch, r, o, why, "guest", message)
}

// fault ends a runner whose guest or microVM failed: rejected before a job started, failed after.
func (c *Control) fault(ctx context.Context, ch *change, r *firerunner.Runner, why firerunner.Reason, actor, message string) error {
	o := firerunner.Failed
	if r.JobID == 0 {
		o = firerunner.Rejected
	}
	return c.finish(ctx, ch, r, o, why, actor, message)
}

// finish ends a watched runner and moves it to Stopping in the same transaction. What its job became is asked of GitLab
// once more, so that a runner that vanished does not leave a job that counts as running for ever.
func (c *Control) finish(ctx context.Context, ch *change, r *firerunner.Runner, o firerunner.Outcome, why firerunner.Reason, actor, message string) error {
	if _, err := c.endUnsaved(ctx, ch, r, o, why, actor, message); err != nil {
		return err
	}
	if r.JobID != 0 {
		if err := ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: r.Demand.ProjectID, JobID: r.JobID}); err != nil {
			return err
		}
	}
	return c.move(ctx, ch, r, firerunner.Stopping, firerunner.OwnerWatch, r.Message)
}

// lost ends a runner whose microVM its driver does not know any more.
func (c *Control) lost(ctx context.Context, id string) error {
	return c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, id)
		if err != nil || r.State < firerunner.Booting || r.State >= firerunner.Stopping {
			return err
		}
		return c.finish(ctx, ch, &r, firerunner.Lost, firerunner.ReasonVMLost, "watch", "its microVM has vanished")
	})
}

// endWatched sees to it that a watched runner that became unwanted ends. A job that still runs is told to stop and may
// say so to GitLab, for StopGrace.
func (c *Control) endWatched(ctx context.Context, r firerunner.Runner) error {
	if r.Desired == firerunner.Wanted {
		return c.seal(ctx, r)
	}
	if r.State == firerunner.Running && c.mustTellGitLab(ctx, r) {
		err := c.Driver.Order(ctx, r.ID, firerunner.OrderStop)
		if err == nil {
			c.await(ctx, c.StopGrace, func() bool {
				now, err := c.Store.Runner(ctx, r.ID)
				return err != nil || now.State >= firerunner.Stopping
			})
		} else if firerunner.CodeOf(err) != firerunner.NotFound {
			c.Logger.Warn("could not tell a guest to stop its job", "runner", r.ID, "error", err)
		}
	}
	return c.abandon(ctx, r.ID, firerunner.OwnerWatch)
}

// seal makes the credential worthless as soon as its one job is taken: GitLab gives a paused runner no other, whoever
// has the token. The job itself goes on with a token of its own.
func (c *Control) seal(ctx context.Context, r firerunner.Runner) error {
	if r.State != firerunner.Running || r.GitLabID <= 0 {
		return nil
	}
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	if err := c.GitLab.PauseRunner(callCtx, r.GitLabID); err != nil && firerunner.CodeOf(err) != firerunner.NotFound {
		return fmt.Errorf("pausing the GitLab runner of %s after it took its job: %w", r.ID, err)
	}
	return nil
}

// mustTellGitLab reports whether GitLab still believes that the runner's job runs.
func (c *Control) mustTellGitLab(ctx context.Context, r firerunner.Runner) bool {
	switch r.Reason {
	case firerunner.ReasonJobDone, firerunner.ReasonJobCancelled, firerunner.ReasonVMExited, firerunner.ReasonVMLost, firerunner.ReasonHostLost,
		firerunner.ReasonGuestError: // who lied about its job gets no time to end it
		return false
	}
	job, err := c.Store.Job(ctx, r.JobID)
	return err != nil || !job.Status.Final()
}

// await looks at each change of the store until done, for at most d.
func (c *Control) await(ctx context.Context, d time.Duration, done func() bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		changed := c.changes.next()
		if done() {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return done()
		case <-ctx.Done():
			return false
		}
	}
}
