package gitlab

import (
	"context"
	"fmt"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

// ProjectID returns the id of a project by its full path, such as group/name
// (https://docs.gitlab.com/api/projects/#retrieve-a-project).
func (c *Client) ProjectID(ctx context.Context, path string) (int64, error) {
	doing := fmt.Sprintf("looking up project %q", clean(path, mostPath))
	p, _, err := call(ctx, c, "project", doing, func(with ...gl.RequestOptionFunc) (*gl.Project, *gl.Response, error) {
		return c.api.Projects.GetProject(path, nil, append(with, again())...)
	})
	if err != nil {
		return 0, err
	}
	if p == nil || p.ID <= 0 {
		return 0, firerunner.Errorf(firerunner.Unavailable, "gitlab: %s: the answer is not a project", doing)
	}
	return p.ID, nil
}
