package gitlab

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// quotas remembers what GitLab's answers say of its rate limits, by the limit's name: each endpoint may have one of its
// own. Where limits are off, GitLab says nothing.
type quotas struct {
	mu     sync.Mutex
	byName map[string]firerunner.Quota
}

// mostQuotas bounds what a strange GitLab, or a proxy, can have us remember.
const mostQuotas = 32

// longestWindow is the longest that a limit is believed to last; GitLab's are a minute, or an hour.
const longestWindow = time.Hour

// note reads RateLimit-Limit, -Remaining, -Reset and -Name, and of a refusal Retry-After
// (https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/#response-headers).
func (q *quotas) note(resp *http.Response, now time.Time) {
	h := resp.Header
	limit, err := strconv.Atoi(h.Get("RateLimit-Limit"))
	if err != nil || limit < 0 {
		limit = 0
	}
	seen := firerunner.Quota{Limit: limit}
	remaining, err := strconv.Atoi(h.Get("RateLimit-Remaining"))
	told := err == nil && limit > 0
	seen.Remaining = min(max(remaining, 0), limit)
	if reset, err := strconv.ParseInt(h.Get("RateLimit-Reset"), 10, 64); err == nil && reset > 0 {
		seen.Reset = now.Add(window(time.Unix(min(reset, 1<<40), 0), h.Get("Date"), now))
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		wait := rateLimited(h, now).Wait
		if wait <= 0 {
			wait = time.Minute // GitLab did not say; its windows are a minute
		}
		seen.Limit, seen.Remaining, told = max(limit, 1), 0, true
		if until := now.Add(wait); until.After(seen.Reset) {
			seen.Reset = until
		}
	}
	if !told || !seen.Reset.After(now) {
		return
	}
	name := clean(h.Get("RateLimit-Name"), 64)
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, known := q.byName[name]; q.byName == nil || !known && len(q.byName) >= mostQuotas {
		q.byName = map[string]firerunner.Quota{}
	}
	q.byName[name] = seen
}

// window is how long a limit lasts: by GitLab's clock, where it tells the time, for ours may be another.
func window(reset time.Time, date string, now time.Time) time.Duration {
	if theirs, err := http.ParseTime(date); err == nil {
		now = theirs
	}
	return min(max(reset.Sub(now), 0), longestWindow)
}

// tightest returns the limit in force of which the smallest part is left.
func (q *quotas) tightest(now time.Time) firerunner.Quota {
	q.mu.Lock()
	defer q.mu.Unlock()
	var least firerunner.Quota
	for name, seen := range q.byName {
		if !seen.Reset.After(now) {
			delete(q.byName, name)
			continue
		}
		if least.Limit == 0 || seen.Remaining*least.Limit < least.Remaining*seen.Limit {
			least = seen
		}
	}
	return least
}

var _ firerunner.QuotaTeller = (*Client)(nil)

// Quota is what GitLab's rate limits leave. See firerunner.QuotaTeller.
func (c *Client) Quota() firerunner.Quota { return c.quotas.tightest(c.now()) }
