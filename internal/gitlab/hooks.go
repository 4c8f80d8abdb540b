package gitlab

import (
	"context"
	"fmt"
	"strconv"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

var _ firerunner.WebhookLister = (*Client)(nil)

// Webhooks is Hooks by a project's id. See firerunner.WebhookLister.
func (c *Client) Webhooks(ctx context.Context, projectID int64) ([]firerunner.Webhook, error) {
	return c.Hooks(ctx, strconv.FormatInt(projectID, 10))
}

// Hook is a project's webhook as GitLab lists it. A group's hooks are not among them.
type Hook = firerunner.Webhook

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
