package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// sweep finds what hooks missed: pending jobs of the projects that we know, jobs that are not pending any more, and
// demand that nobody supplies. A hook is a hint; this is the truth.
func (c *Control) sweep(ctx context.Context) error {
	projects, err := c.Store.Projects(ctx, c.Now().Add(-c.SweepWindow))
	if err != nil {
		return fmt.Errorf("listing the projects to sweep: %w", err)
	}
	ids := slices.Clone(c.SweepProjects)
	for _, p := range projects {
		if !slices.Contains(ids, p.ID) {
			ids = append(ids, p.ID)
		}
	}
	var errs []error
	for _, id := range ids {
		if err := c.sweepProject(ctx, id); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, c.level(ctx))
	return errors.Join(errs...)
}

func (c *Control) sweepProject(ctx context.Context, projectID int64) error {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	asked := c.Now()
	pending, err := c.GitLab.PendingJobs(callCtx, projectID)
	if err != nil {
		return fmt.Errorf("sweeping project %d: %w", projectID, err)
	}
	return c.update(ctx, func(ch *change) error {
		listed := map[int64]bool{}
		for _, job := range pending {
			listed[job.ID] = true
			known, err := ch.Job(ctx, job.ID)
			if err == nil && known.Status.Rank() >= job.Status.Rank() {
				continue // nothing new
			}
			if err := c.see(ctx, ch, job, "sweep"); err != nil {
				return err
			}
		}
		open, err := ch.Jobs(ctx, firerunner.JobQuery{
			ProjectID: projectID, OursOnly: true,
			Statuses: []firerunner.JobStatus{firerunner.JobPending, firerunner.JobRunning, firerunner.JobCanceling},
		})
		if err != nil {
			return err
		}
		for _, job := range open {
			if listed[job.ID] || !job.SeenAt.Before(asked) {
				continue
			}
			if err := ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: projectID, JobID: job.ID}); err != nil {
				return err
			}
		}
		return nil
	})
}

// level enqueues a count for each demand whose supply is not equal to it, and a placement if a runner waits.
func (c *Control) level(ctx context.Context) error {
	return c.update(ctx, func(ch *change) error {
		wanted := map[firerunner.Demand]int{}
		type claim struct { // a guest's word counts within its own demand only, as in count
			firerunner.Demand
			jobID int64
		}
		taken := map[claim]bool{}
		live, err := ch.Runners(ctx, firerunner.RunnerQuery{Live: true})
		if err != nil {
			return err
		}
		queued := false
		for _, r := range live {
			if r.Supply() {
				wanted[r.Demand]--
			}
			if r.JobID != 0 {
				taken[claim{r.Demand, r.JobID}] = true
			}
			queued = queued || r.State == firerunner.Queued
			if r.Desired == firerunner.Unwanted && c.Now().Sub(r.MovedAt) > time.Minute {
				if err := ch.Enqueue(ctx, c.advanceStep(r)); err != nil {
					return err
				}
			}
		}
		jobs, err := ch.Jobs(ctx, firerunner.JobQuery{Statuses: []firerunner.JobStatus{firerunner.JobPending}, OursOnly: true})
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if j.Wants() && !taken[claim{j.Demand(), j.ID}] {
				wanted[j.Demand()]++
			}
		}
		for d, n := range wanted {
			if n != 0 {
				if err := ch.Enqueue(ctx, demandStep(d)); err != nil {
					return err
				}
			}
		}
		if queued {
			return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace})
		}
		return nil
	})
}
