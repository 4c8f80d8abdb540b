package gitlab

import (
	"context"
	"fmt"
	"time"

	gl "gitlab.com/gitlab-org/api/client-go/v2"
)

// Hook is a project's webhook as GitLab lists it. A group's hooks are not among them.
type Hook struct {
	ID            int64
	URL           string
	JobEvents     bool
	Token         bool      // it sends X-Gitlab-Token; false too where GitLab is too old to say
	Signed        bool      // it signs; false too where GitLab is too old to say
	Template      bool      // its body is a template of the project's own
	AlertStatus   string    // executable, temporarily_disabled, disabled
	DisabledUntil time.Time // zero: it is not, or for good
}

// Hooks returns the webhooks of a project (an id or a full path). Only a maintainer of it may ask: Unauthorized
// (https://docs.gitlab.com/api/project_webhooks/#list-webhooks-for-a-project).
func (c *Client) Hooks(ctx context.Context, project string) ([]Hook, error) {
	doing := fmt.Sprintf("listing the webhooks of project %q", clean(project, mostPath))
	listed, err := pages(ctx, c, "hooks", doing, func(page gl.ListOptions, with ...gl.RequestOptionFunc) ([]*gl.ProjectHook, *gl.Response, error) {
		return c.api.Projects.ListProjectHooks(project, &gl.ListProjectHooksOptions{ListOptions: page}, with...)
	})
	if err != nil {
		return nil, err
	}
	var hooks []Hook
	for _, h := range listed {
		if h == nil {
			continue
		}
		hooks = append(hooks, hookFrom(h))
	}
	return hooks, nil
}

func hookFrom(h *gl.ProjectHook) Hook {
	hook := Hook{
		ID: h.ID, URL: h.URL, JobEvents: h.JobEvents, Token: h.TokenPresent, Signed: h.SigningTokenPresent,
		Template: h.CustomWebhookTemplate != "", AlertStatus: h.AlertStatus,
	}
	if h.DisabledUntil != nil {
		hook.DisabledUntil = *h.DisabledUntil
	}
	return hook
}
