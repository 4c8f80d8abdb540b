package intake

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
)

// record writes a delivery down in one transaction: that it was taken, that its project exists, and the step that it
// asks for. Once it returns, no crash loses the step. If it fails nothing of it was written; GitLab will not deliver
// it again, but the sweep looks at every project that was ever noted.
func (in *Intake) record(ctx context.Context, key string, said hook) (Result, error) {
	var result Result
	var noticedAt time.Time
	err := in.cfg.Store.Update(ctx, func(tx firerunner.Tx) error {
		now := in.cfg.Now()
		noticedAt = time.Time{}
		fresh, err := tx.TakeDelivery(ctx, key, now)
		if err != nil {
			return err
		}
		if !fresh {
			result = Duplicate
			return nil
		}
		if !in.noticed.lately(said.projectID, now) {
			noticedAt = now
			if err := tx.SaveProject(ctx, firerunner.Project{ID: said.projectID, Path: said.path, SeenAt: now}); err != nil {
				return err
			}
		}
		matters, err := in.matters(ctx, tx, said)
		if err != nil || !matters {
			result = Noted
			return err
		}
		result = Queued
		return tx.Enqueue(ctx, firerunner.Step{
			Kind: firerunner.StepReadJob, ProjectID: said.projectID, JobID: said.jobID,
		})
	})
	if err != nil {
		return Unavailable, err
	}
	if !noticedAt.IsZero() {
		in.noticed.written(said.projectID, noticedAt)
	}
	return result, nil
}

// matters reports whether the job must be asked about. A pending one always: its tags are not in the hook. One that
// went on only if it is ours, or if a runner of ours has it: GitLab gives a job to any runner that fits, so a runner
// can have a job that we never saw pending. All other jobs cost no question.
func (in *Intake) matters(ctx context.Context, tx firerunner.Tx, said hook) (bool, error) {
	switch said.status {
	case firerunner.JobPending:
		return true, nil
	case firerunner.JobRunning, firerunner.JobCanceling, firerunner.JobSuccess, firerunner.JobFailed,
		firerunner.JobCanceled, firerunner.JobSkipped:
	default:
		return false, nil
	}
	job, err := tx.Job(ctx, said.jobID)
	if err != nil && firerunner.CodeOf(err) != firerunner.NotFound {
		return false, err
	}
	if err == nil && (job.Ours || job.RunnerID != "") {
		return true, nil
	}
	if said.runnerID == 0 {
		return false, nil
	}
	ours, err := tx.Runners(ctx, firerunner.RunnerQuery{GitLabID: said.runnerID, Limit: 1})
	return len(ours) > 0, err
}
