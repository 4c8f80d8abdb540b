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

// leastAccess is the role that may make runners of a project: Maintainer
// (https://docs.gitlab.com/api/access_requests/#valid-access-levels).
const leastAccess = gl.MaintainerPermissions

var _ firerunner.ProjectLister = (*Client)(nil)

// MemberProjects returns one page of the projects of which the token's user is a maintainer, by ID
// (https://docs.gitlab.com/api/projects/#list-all-projects). Paging by ID shows each project once, whatever changes meanwhile.
func (c *Client) MemberProjects(ctx context.Context, after int64) ([]firerunner.Project, error) {
	opts := &gl.ListProjectsOptions{
		ListOptions: gl.ListOptions{PerPage: int64(c.pageSize)}, Membership: new(true), MinAccessLevel: new(leastAccess), Archived: new(false),
		Simple: new(true), OrderBy: new("id"), Sort: new("asc"), IDAfter: &after,
	}
	listed, _, err := call(ctx, c, "member_projects", "listing the projects of the token's user",
		func(with ...gl.RequestOptionFunc) ([]*gl.Project, *gl.Response, error) {
			return c.api.Projects.ListProjects(opts, append(with, again())...)
		})
	if err != nil {
		return nil, err
	}
	var projects []firerunner.Project
	for _, p := range listed {
		if p != nil && p.ID > after {
			projects = append(projects, firerunner.Project{ID: p.ID, Path: clean(p.PathWithNamespace, mostPath)})
		}
	}
	return projects, nil
}
