package gitlab

import (
	"context"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

// pages reads a list to its end, page by page (https://docs.gitlab.com/api/rest/#offset-based-pagination). Each page
// has the deadline of a call. A list that changes while it is read may show an entry twice, or miss one that
// moved to a page read before: who needs all of them asks again later. After an error, what was read is returned
// beside it.
func pages[T any](ctx context.Context, c *Client, op, doing string,
	list func(page gl.ListOptions, with ...gl.RequestOptionFunc) ([]T, *gl.Response, error),
) ([]T, error) {
	var all []T
	page := int64(1)
	for read := 1; ; read++ {
		got, resp, err := call(ctx, c, op, doing, func(with ...gl.RequestOptionFunc) ([]T, *gl.Response, error) {
			return list(gl.ListOptions{Page: page, PerPage: int64(c.pageSize)}, append(with, again())...)
		})
		if err != nil {
			return all, err
		}
		all = append(all, got...)
		if resp.NextPage <= page || len(got) == 0 {
			return all, nil
		}
		if read >= c.maxPages {
			return all, firerunner.Errorf(firerunner.Exhausted, "gitlab: %s: more than %d pages of %d", doing, c.maxPages, c.pageSize).
				WithHint("this is far more than FireRunner expects; look at the list in GitLab")
		}
		page = resp.NextPage
	}
}
