package gitlab

import (
	"context"
	"fmt"
	"strings"
	"time"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

// leastTimeout is the smallest maximum_timeout that GitLab takes: "needs to be at least 10 minutes"
// (https://docs.gitlab.com/ci/runners/configure_runners/#set-the-maximum-job-timeout).
const leastTimeout = 10 * time.Minute

// CreateRunner makes a runner that belongs to one project, is locked to it, and takes jobs with tags only, and only
// those whose tags it all has: of all runners this one is worth least when its token is stolen. The request is sent
// once, whatever happens; after Unavailable the runner may exist, and its description finds it.
//
// A MaxTimeout below GitLab's least of 10 minutes is rounded up to it: the runner's own deadlines end the job
// earlier, GitLab's is the last resort.
func (c *Client) CreateRunner(ctx context.Context, r firerunner.CredentialRequest) (firerunner.Credential, error) {
	doing := fmt.Sprintf("creating a runner for project %d", r.ProjectID)
	tags := r.Tags.List()
	switch {
	case r.ProjectID <= 0:
		return firerunner.Credential{}, firerunner.Errorf(firerunner.Invalid, "gitlab: %s: no project", doing)
	case len(tags) == 0:
		return firerunner.Credential{}, firerunner.Errorf(firerunner.Invalid, "gitlab: %s: no tags", doing)
	case r.Description == "":
		return firerunner.Credential{}, firerunner.Errorf(firerunner.Invalid, "gitlab: %s: no description", doing)
	}
	opts := &gl.CreateUserRunnerOptions{
		RunnerType:  new("project_type"),
		ProjectID:   &r.ProjectID,
		Description: &r.Description,
		Locked:      new(true),
		RunUntagged: new(false),
		TagList:     &tags,
	}
	if r.MaxTimeout > 0 {
		opts.MaximumTimeout = new(int64((max(r.MaxTimeout, leastTimeout) + time.Second - 1) / time.Second))
	}
	made, _, err := call(ctx, c, "create_runner", doing, func(with ...gl.RequestOptionFunc) (*gl.UserRunner, *gl.Response, error) {
		return c.api.Users.CreateUserRunner(opts, with...)
	})
	if err != nil {
		return firerunner.Credential{}, err
	}
	if made == nil || made.ID <= 0 {
		return firerunner.Credential{}, firerunner.Errorf(firerunner.Unavailable, "gitlab: %s: the answer names no runner", doing)
	}
	token, err := checkToken(made.Token)
	if err != nil {
		return firerunner.Credential{}, firerunner.Errorf(firerunner.Unavailable,
			"gitlab: %s: the answer holds no usable token for runner %d", doing, made.ID)
	}
	return firerunner.Credential{ID: made.ID, Token: token}, nil
}

// FindRunners lists the project runners of a project, or all that the token may see, and returns those whose
// description begins with prefix; GitLab itself cannot search by description. After Exhausted (more pages than
// Config.MaxPages) the runners that were read are returned beside the error.
func (c *Client) FindRunners(ctx context.Context, projectID int64, prefix string) ([]firerunner.GitLabRunner, error) {
	doing := "listing runners"
	opts := gl.ListRunnersOptions{Type: new("project_type")}
	list := func(page gl.ListOptions, with ...gl.RequestOptionFunc) ([]*gl.Runner, *gl.Response, error) {
		opts.ListOptions = page
		return c.api.Runners.ListRunners(&opts, with...)
	}
	if projectID != 0 {
		doing = fmt.Sprintf("listing the runners of project %d", projectID)
		list = func(page gl.ListOptions, with ...gl.RequestOptionFunc) ([]*gl.Runner, *gl.Response, error) {
			opts.ListOptions = page
			return c.api.Runners.ListProjectRunners(projectID, new(gl.ListProjectRunnersOptions(opts)), with...)
		}
	}
	all, err := pages(ctx, c, "find_runners", doing, list)
	var found []firerunner.GitLabRunner
	seen := map[int64]bool{}
	for _, r := range all {
		if r == nil || r.ID <= 0 || seen[r.ID] || !strings.HasPrefix(r.Description, prefix) {
			continue
		}
		seen[r.ID] = true
		found = append(found, firerunner.GitLabRunner{
			ID: r.ID, Description: clean(r.Description, 1024), Paused: r.Paused, Status: clean(r.Status, 32),
		})
	}
	return found, err
}

// PauseRunner makes GitLab give the runner no more jobs; the one that it has runs on.
func (c *Client) PauseRunner(ctx context.Context, id int64) error {
	doing := fmt.Sprintf("pausing runner %d", id)
	_, _, err := call(ctx, c, "pause_runner", doing, func(with ...gl.RequestOptionFunc) (*gl.RunnerDetails, *gl.Response, error) {
		opts := &gl.UpdateRunnerDetailsOptions{Paused: new(true)}
		return c.api.Runners.UpdateRunnerDetails(id, opts, append(with, again())...)
	})
	return err
}

// DeleteRunner removes the runner by its ID. The other way, by its token, would put the token into a URL.
func (c *Client) DeleteRunner(ctx context.Context, id int64) error {
	doing := fmt.Sprintf("deleting runner %d", id)
	_, _, err := call(ctx, c, "delete_runner", doing, func(with ...gl.RequestOptionFunc) (struct{}, *gl.Response, error) {
		resp, err := c.api.Runners.DeleteRegisteredRunnerByID(id, append(with, again())...)
		return struct{}{}, resp, err
	})
	if firerunner.CodeOf(err) == firerunner.NotFound {
		return nil
	}
	return err
}
