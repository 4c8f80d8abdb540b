package firerunner

import (
	"context"
	"time"
)

// QuotaTeller is an extra ability of a GitLab: it knows what GitLab's rate limits leave.
type QuotaTeller interface {
	// Quota returns the tightest limit that is in force now, as GitLab's latest answers have it. The zero Quota: none is.
	Quota() Quota
}

// Quota is what a rate limit of GitLab's leaves of one window
// (https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/#response-headers).
type Quota struct {
	Limit     int // requests in a window
	Remaining int
	Reset     time.Time // when the next window begins, by our clock
}

// ProjectLister is an extra ability of a GitLab: it tells which projects its token may serve.
type ProjectLister interface {
	// MemberProjects returns one page of the projects in which the token's user may make runners, by ID, those above after
	// only. An empty page is the end. It is one request.
	MemberProjects(ctx context.Context, after int64) ([]Project, error)
}

// WebhookLister is an extra ability of a GitLab: it lists a project's own webhooks.
type WebhookLister interface {
	// Webhooks returns them; those of a group are not among them. Unauthorized or NotFound: the token may not look.
	Webhooks(ctx context.Context, projectID int64) ([]Webhook, error)
}

// Webhook is a project's webhook as GitLab lists it.
type Webhook struct {
	ID            int64
	URL           string
	JobEvents     bool
	Token         bool      // it sends X-Gitlab-Token; false too where GitLab is too old to say
	Signed        bool      // it signs; false too where GitLab is too old to say
	Template      bool      // its body is a template of the project's own
	AlertStatus   string    // executable, temporarily_disabled, disabled
	DisabledUntil time.Time // zero: it is not, or for good
}
