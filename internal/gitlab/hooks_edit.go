package gitlab

import (
	"context"
	"fmt"
	"strings"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

// HookSettings are what a project's webhook must be to be of use: an address, job events, no template of its own, and
// something that proves where its deliveries come from.
type HookSettings struct {
	URL          string
	Token        firerunner.Secret // X-Gitlab-Token; empty: none is set
	SigningToken firerunner.Secret // whsec_...; empty: none is set. GitLab before 19.0 ignores it in silence
}

// CreateHook makes a webhook that sends job events and nothing else. It is sent once: after Unavailable the webhook may or
// may not exist, and Hooks tells. The token needs the scope api and its user must be a maintainer
// (https://docs.gitlab.com/api/project_webhooks/#create-a-project-webhook).
func (c *Client) CreateHook(ctx context.Context, project string, s HookSettings) (Hook, error) {
	doing := fmt.Sprintf("making a webhook of project %q", clean(project, mostPath))
	opts := &gl.AddProjectHookOptions{
		URL: &s.URL, JobEvents: new(true), PushEvents: new(false), // push events are on unless it is said
		EnableSSLVerification: new(true), Name: new("FireRunner"), Token: given(s.Token), SigningToken: given(s.SigningToken),
	}
	made, _, err := call(ctx, c, "create_hook", doing, func(with ...gl.RequestOptionFunc) (*gl.ProjectHook, *gl.Response, error) {
		return c.api.Projects.AddProjectHook(project, opts, with...)
	})
	return c.hookOf(made, doing, err)
}

// UpdateHook makes a webhook what CreateHook would make, and leaves alone which other events it sends. Every secret is
// sent: GitLab forgets the token of a webhook whose address changes
// (https://docs.gitlab.com/api/project_webhooks/#update-a-project-webhook).
func (c *Client) UpdateHook(ctx context.Context, project string, id int64, s HookSettings) (Hook, error) {
	doing := fmt.Sprintf("repairing webhook %d of project %q", id, clean(project, mostPath))
	opts := &gl.EditProjectHookOptions{
		URL: &s.URL, JobEvents: new(true), Token: given(s.Token), SigningToken: given(s.SigningToken), CustomWebhookTemplate: new(""),
	}
	changed, _, err := call(ctx, c, "update_hook", doing, func(with ...gl.RequestOptionFunc) (*gl.ProjectHook, *gl.Response, error) {
		return c.api.Projects.EditProjectHook(project, id, opts, append(with, again())...)
	})
	return c.hookOf(changed, doing, err)
}

// TestHook has GitLab send the event of the project's newest job now, switched off or not; one that arrives switches the
// webhook on again. Exhausted: five in a minute are the most. Invalid: the project has no job, or the delivery failed
// (https://docs.gitlab.com/api/project_webhooks/#trigger-a-test-project-webhook).
func (c *Client) TestHook(ctx context.Context, project string, id int64) error {
	doing := fmt.Sprintf("testing webhook %d of project %q", id, clean(project, mostPath))
	_, _, err := call(ctx, c, "test_hook", doing, func(with ...gl.RequestOptionFunc) (struct{}, *gl.Response, error) {
		resp, err := c.api.Projects.TriggerTestProjectHook(project, id, gl.ProjectHookEventJob, with...)
		return struct{}{}, resp, err
	})
	return err
}

func (c *Client) hookOf(h *gl.ProjectHook, doing string, err error) (Hook, error) {
	switch {
	case err != nil:
		return Hook{}, err
	case h == nil || h.ID <= 0 || strings.TrimSpace(h.URL) == "":
		return Hook{}, firerunner.Errorf(firerunner.Unavailable, "gitlab: %s: the answer is not a webhook", doing)
	}
	return hookFrom(h), nil
}

// given is a secret as an option: none is left as it is.
func given(s firerunner.Secret) *string {
	if s == "" {
		return nil
	}
	return new(s.Reveal())
}
