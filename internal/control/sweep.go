package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// sweep finds what hooks missed: pending jobs of the projects that we know or discover, jobs that are not pending any more,
// and demand that nobody supplies. A hook is a hint; this is the truth. One round asks as many projects as the budget
// permits within SweepInterval; see planSweep.
func (c *Control) sweep(ctx context.Context) error {
	c.renewTrials(ctx)
	end := c.sweeper.budget.clock().Add(c.set().SweepInterval)
	errs := []error{c.discover(ctx, end)}
	all, err := c.known(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	room := max(int(float64(c.SweepPerMinute)*c.set().SweepInterval.Minutes()), int(c.sweeper.budget.burst()))
	var reached reach
	for _, id := range planSweep(all, c.Now(), room, c.sweeper.salt, c.sweeper.questions) {
		if !c.sweeper.budget.wait(ctx, end) {
			break // the next round begins with those that were left out
		}
		err := c.sweepProject(ctx, id)
		var limited rateLimited
		switch code := firerunner.CodeOf(err); {
		case errors.As(err, &limited): // the budget knows until when
		case code == firerunner.NotFound, code == firerunner.Unauthorized:
			if c.sweeper.asked(id, c.Now(), true) {
				errs = append(errs, err) // said once: it is asked rarely from now on
			}
		default:
			c.sweeper.asked(id, c.Now(), false) // one that never answers does not keep its place before the others
			errs = append(errs, err)
		}
		if c.lostReach(ctx, &reached, err) {
			errs = append(errs, errors.New("GitLab does not answer: the projects that are left are asked by the next sweep"))
			break
		}
	}
	errs = append(errs, c.level(ctx))
	return errors.Join(errs...)
}

// jobsPage is how many jobs GitLab lists in one request.
const jobsPage = 100

func (c *Control) sweepProject(ctx context.Context, projectID int64) error {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	asked := c.Now()
	pending, err := c.GitLab.PendingJobs(callCtx, projectID)
	if err != nil {
		return fmt.Errorf("sweeping project %d: %w", projectID, err)
	}
	c.sweeper.budget.charge(len(pending) / jobsPage) // the first page is paid
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
		open, err := ch.Jobs(ctx, firerunner.JobQuery{ProjectID: projectID, OursOnly: true, Statuses: openStatuses()})
		if err != nil {
			return err
		}
		open = slices.DeleteFunc(open, func(j firerunner.Job) bool {
			return listed[j.ID] || !j.SeenAt.Before(asked) && !j.SeenAt.After(c.Now()) // after now: the clock went back
		})
		return c.readAgain(ctx, ch, open)
	})
}

// readAgain has jobs read that are not pending any more. Those that we believe to be pending are read in any case: somebody
// else has them, or they were cancelled, and a runner waits for them in vain. Of those that run we hear otherwise, so
// they are read as far as the budget has room, who was not seen for longest first.
func (c *Control) readAgain(ctx context.Context, ch *change, open []firerunner.Job) error {
	slices.SortStableFunc(open, func(a, b firerunner.Job) int { return a.SeenAt.Compare(b.SeenAt) })
	var waiting, running []firerunner.Job
	for _, j := range open {
		if j.Status == firerunner.JobPending {
			waiting = append(waiting, j)
		} else {
			running = append(running, j)
		}
	}
	c.sweeper.budget.charge(len(waiting))
	for _, j := range append(waiting, running[:c.sweeper.budget.part(len(running))]...) {
		if err := ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: j.ProjectID, JobID: j.ID}); err != nil {
			return err
		}
	}
	return nil
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
