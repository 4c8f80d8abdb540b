// Package extended is the client that runs steps; here it only says that it
// cannot, so that a job which needs it fails with a reason.
package extended

import (
	"context"
	"errors"
	"io"

	"gitlab.com/gitlab-org/step-runner/pkg/api/client"
)

var errNoSteps = errors.New("this test build of gitlab-runner does not run native steps")

// FollowOutput is where the log goes.
type FollowOutput struct{ Logs io.Writer }

// Client would speak to a step service.
type Client struct{}

// New always fails.
func New(dialer any) (*Client, error) { return nil, errNoSteps }

// CloseConn does nothing.
func (c *Client) CloseConn() error { return nil }

// Cancel always fails.
func (c *Client) Cancel(context.Context, string) error { return errNoSteps }

// RunAndFollow always fails.
func (c *Client) RunAndFollow(context.Context, *client.RunRequest, *FollowOutput) (client.Status, error) {
	return client.Status{}, errNoSteps
}
