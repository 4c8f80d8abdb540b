package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/firerunner/firerunner"
)

var (
	_ firerunner.GitLab    = (*GitLab)(nil)
	_ firerunner.JobFailer = (*GitLab)(nil)
)

// CreateRunner implements firerunner.GitLab.
func (g *GitLab) CreateRunner(_ context.Context, r firerunner.CredentialRequest) (firerunner.Credential, error) {
	if r.ProjectID <= 0 || r.Tags == "" || r.Description == "" {
		return firerunner.Credential{}, firerunner.Errorf(firerunner.Invalid, "making a runner: project, tags and description are needed")
	}
	made := g.AddRunner(r)
	return firerunner.Credential{ID: made.ID, Token: firerunner.Secret(made.Token)}, nil
}

// FindRunners implements firerunner.GitLab.
func (g *GitLab) FindRunners(_ context.Context, project int64, prefix string) (found []firerunner.GitLabRunner, _ error) {
	for _, r := range g.runners {
		if (project == 0 || r.Project == project) && strings.HasPrefix(r.Description, prefix) {
			found = append(found, r.GitLabRunner)
		}
	}
	slices.SortFunc(found, func(a, b firerunner.GitLabRunner) int { return cmp.Compare(a.ID, b.ID) })
	return found, nil
}

// PauseRunner implements firerunner.GitLab.
func (g *GitLab) PauseRunner(_ context.Context, id int64) error {
	r := g.runners[id]
	if r == nil {
		return firerunner.Errorf(firerunner.NotFound, "pausing runner %d: there is none", id)
	}
	r.Paused = true
	return nil
}

// DeleteRunner implements firerunner.GitLab. The job that it has goes on: that has a token of its own.
func (g *GitLab) DeleteRunner(_ context.Context, id int64) error {
	delete(g.runners, id)
	return nil
}

// RunnerJobs implements firerunner.GitLab.
func (g *GitLab) RunnerJobs(_ context.Context, id int64) (taken []firerunner.Job, _ error) {
	if g.runners[id] == nil {
		return nil, firerunner.Errorf(firerunner.NotFound, "listing the jobs of runner %d: there is none", id)
	}
	for _, of := range g.order {
		if j := g.jobs[of]; j.Runner == id {
			taken = append(taken, g.seen(j))
		}
	}
	return taken, nil
}

// Job implements firerunner.GitLab.
func (g *GitLab) Job(_ context.Context, project, id int64) (firerunner.Job, error) {
	if j := g.jobs[id]; j != nil && j.ProjectID == project {
		return g.seen(j), nil
	}
	return firerunner.Job{}, firerunner.Errorf(firerunner.NotFound, "there is no job %d in project %d", id, project)
}

// PendingJobs implements firerunner.GitLab: the newest first.
func (g *GitLab) PendingJobs(_ context.Context, project int64) (pending []firerunner.Job, _ error) {
	for _, id := range g.order {
		if j := g.jobs[id]; j.ProjectID == project && j.Status == firerunner.JobPending {
			pending = append(pending, g.seen(j))
		}
	}
	slices.Reverse(pending)
	return pending, nil
}

// FailJob implements firerunner.JobFailer.
func (g *GitLab) FailJob(_ context.Context, id int64, token firerunner.Secret, _ string) (told bool, _ error) {
	if j := g.jobs[id]; j == nil || j.Token() != token {
		return false, nil
	}
	return g.Finish(id, firerunner.JobFailed, firerunner.SystemFailure), nil
}

// Check implements firerunner.GitLab.
func (g *GitLab) Check(context.Context) (firerunner.GitLabCheck, error) {
	return firerunner.GitLabCheck{Version: "18.0.0", User: "sim", Scopes: []string{"api", "create_runner"}}, nil
}

// remoteGitLab is GitLab as a daemon reaches it: over a network.
type remoteGitLab struct {
	d *daemon
	g *GitLab
}

var (
	_ firerunner.GitLab    = remoteGitLab{}
	_ firerunner.JobFailer = remoteGitLab{}
)

func (r remoteGitLab) fault(ambiguous bool) trip { return r.d.w.gitlabTrip(ambiguous) }

// CreateRunner implements firerunner.GitLab.
func (r remoteGitLab) CreateRunner(ctx context.Context, q firerunner.CredentialRequest) (firerunner.Credential, error) {
	return remote(ctx, r.d, "gitlab.create "+q.Description, func() trip { return r.fault(true) }, func() (firerunner.Credential, error) {
		return r.g.CreateRunner(ctx, q)
	})
}

// FindRunners implements firerunner.GitLab.
func (r remoteGitLab) FindRunners(ctx context.Context, project int64, prefix string) ([]firerunner.GitLabRunner, error) {
	return remote(ctx, r.d, fmt.Sprintf("gitlab.find %d %s", project, prefix), func() trip { return r.fault(false) }, func() ([]firerunner.GitLabRunner, error) {
		return r.g.FindRunners(ctx, project, prefix)
	})
}

// PauseRunner implements firerunner.GitLab.
func (r remoteGitLab) PauseRunner(ctx context.Context, id int64) error {
	return remoteErr(ctx, r.d, fmt.Sprint("gitlab.pause ", id), func() trip { return r.fault(true) }, func() error { return r.g.PauseRunner(ctx, id) })
}

// DeleteRunner implements firerunner.GitLab.
func (r remoteGitLab) DeleteRunner(ctx context.Context, id int64) error {
	return remoteErr(ctx, r.d, fmt.Sprint("gitlab.delete ", id), func() trip { return r.fault(true) }, func() error {
		r.d.w.noteDeletion(id)
		return r.g.DeleteRunner(ctx, id)
	})
}

// RunnerJobs implements firerunner.GitLab.
func (r remoteGitLab) RunnerJobs(ctx context.Context, id int64) ([]firerunner.Job, error) {
	return remote(ctx, r.d, fmt.Sprint("gitlab.runnerjobs ", id), func() trip { return r.fault(false) }, func() ([]firerunner.Job, error) {
		return r.g.RunnerJobs(ctx, id)
	})
}

// Job implements firerunner.GitLab.
func (r remoteGitLab) Job(ctx context.Context, project, id int64) (firerunner.Job, error) {
	return remote(ctx, r.d, fmt.Sprint("gitlab.job ", id), func() trip { return r.fault(false) }, func() (firerunner.Job, error) {
		return r.g.Job(ctx, project, id)
	})
}

// PendingJobs implements firerunner.GitLab.
func (r remoteGitLab) PendingJobs(ctx context.Context, project int64) ([]firerunner.Job, error) {
	return remote(ctx, r.d, fmt.Sprint("gitlab.pending ", project), func() trip { return r.fault(false) }, func() ([]firerunner.Job, error) {
		return r.g.PendingJobs(ctx, project)
	})
}

// FailJob implements firerunner.JobFailer.
func (r remoteGitLab) FailJob(ctx context.Context, id int64, token firerunner.Secret, why string) (bool, error) {
	return remote(ctx, r.d, fmt.Sprint("gitlab.failjob ", id), func() trip { return r.fault(true) }, func() (bool, error) {
		if r.d.w.o.tamper.deaf {
			return false, nil
		}
		return r.g.FailJob(ctx, id, token, why)
	})
}

// Check implements firerunner.GitLab.
func (r remoteGitLab) Check(ctx context.Context) (firerunner.GitLabCheck, error) {
	return remote(ctx, r.d, "gitlab.check", func() trip { return r.fault(false) }, func() (firerunner.GitLabCheck, error) { return r.g.Check(ctx) })
}
