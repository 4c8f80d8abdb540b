package gitlabtest

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

const (
	defaultPerPage = 20
	maxPerPage     = 100
)

// page cuts one page out of all and sets the headers that describe it. Lists that GitLab does not
// count (a project's jobs) carry neither X-Total nor X-Total-Pages.
// Source: https://docs.gitlab.com/api/rest/#pagination
func page[T any](c *call, all []T, counted bool) ([]T, error) {
	number, err := c.params.number("page")
	if err != nil {
		return nil, err
	}
	size, err := c.params.number("per_page")
	if err != nil {
		return nil, err
	}
	if number < 1 {
		number = 1
	}
	if size < 1 {
		size = defaultPerPage
	}
	size = min(size, maxPerPage)

	total := int64(len(all))
	last := max((total+size-1)/size, 1)
	from := total
	if number <= last {
		from = (number - 1) * size
	}
	to := min(from+size, total)

	h := c.w.Header()
	h.Set("X-Page", strconv.FormatInt(number, 10))
	h.Set("X-Per-Page", strconv.FormatInt(size, 10))
	h.Set("X-Prev-Page", "")
	h.Set("X-Next-Page", "")
	var links []string
	link := func(rel string, n int64) {
		q := c.r.URL.Query()
		q.Set("page", strconv.FormatInt(n, 10))
		q.Set("per_page", strconv.FormatInt(size, 10))
		u := url.URL{RawQuery: q.Encode()}
		links = append(links, fmt.Sprintf(`<%s%s%s>; rel=%q`, c.s.external, c.r.URL.EscapedPath(), u.String(), rel))
	}
	if number > 1 {
		h.Set("X-Prev-Page", strconv.FormatInt(number-1, 10))
		link("prev", number-1)
	}
	if to < total {
		h.Set("X-Next-Page", strconv.FormatInt(number+1, 10))
		link("next", number+1)
	}
	link("first", 1)
	if counted {
		h.Set("X-Total", strconv.FormatInt(total, 10))
		h.Set("X-Total-Pages", strconv.FormatInt(last, 10))
		link("last", last)
	}
	h.Set("Link", strings.Join(links, ", "))
	return all[from:to], nil
}

// pageViews cuts a page and turns each element into what the API shows of it.
func pageViews[T any](c *call, all []T, counted bool, view func(T) map[string]any) (any, error) {
	part, err := page(c, all, counted)
	if err != nil {
		return nil, err
	}
	out := make([]map[string]any, len(part))
	for i, v := range part {
		out[i] = view(v)
	}
	return out, nil
}
