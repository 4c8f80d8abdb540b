package gitlab

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

// mostMessage is how many characters of GitLab's own words an error repeats.
const mostMessage = 300

// neverAgain is the rule for every call that does not ask for another one.
func neverAgain(context.Context, *http.Response, error) (bool, error) { return false, nil }

// again lets a call be repeated that may be sent twice: after no answer, and after 5xx. A 429 is not waited for: the
// caller has better things to do until GitLab's limit is reset.
func again() gl.RequestOptionFunc {
	return gl.WithRequestRetry(func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		var redirect *redirectError
		var cert *tls.CertificateVerificationError
		switch {
		case ctx.Err() != nil, errors.Is(err, errRefused), errors.As(err, &redirect), errors.As(err, &cert):
			return false, nil
		case err != nil:
			return true, nil
		}
		return resp.StatusCode == 0 || (resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented), nil
	})
}

// RateLimited is the cause of an Exhausted error after a 429: GitLab takes no more of these calls until then.
type RateLimited struct {
	Until time.Time // zero where GitLab did not say
	Wait  time.Duration
}

// Error says until when.
func (e *RateLimited) Error() string {
	if e.Until.IsZero() {
		return "GitLab's rate limit is reached"
	}
	return "GitLab's rate limit is reached until " + e.Until.UTC().Format(time.RFC3339)
}

// RetryAfter is how long to wait before the next try; 0 where GitLab did not say. Callers outside this package find
// it by an interface with this one method.
func (e *RateLimited) RetryAfter() time.Duration { return e.Wait }

// failed gives an error of client-go its code, its words and its remedy. ctx is the caller's own.
func (c *Client) failed(ctx context.Context, doing string, resp *gl.Response, err error) error {
	var ours *firerunner.Error
	if errors.As(err, &ours) { // from the token source
		return &firerunner.Error{Code: ours.Code, Message: "gitlab: " + doing + ": " + ours.Message, Hint: ours.Hint, Err: err}
	}
	fail := func(code firerunner.Code, format string, args ...any) *firerunner.Error {
		return &firerunner.Error{Code: code, Err: err, Message: "gitlab: " + doing + ": " + fmt.Sprintf(format, args...)}
	}
	if resp == nil || resp.Response == nil {
		return c.unanswered(ctx, fail, err)
	}
	if resp.StatusCode < 300 {
		return fail(firerunner.Unavailable, "the answer cannot be read: %s", c.tidy(err.Error())).
			WithHint("is gitlab.url the address of a GitLab? A proxy or login page may have answered instead (content type %s)",
				clean(resp.Header.Get("Content-Type"), 60))
	}

	said := c.said(resp)
	words := fmt.Sprintf("GitLab answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if said != "" {
		words += ": " + said
	}
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		limited := rateLimited(resp.Header, c.now())
		e := fail(firerunner.Exhausted, "%s; %s", words, limited)
		e.Err = limited
		return e.WithHint("raise GitLab's rate limits for FireRunner's user, or lengthen sweep.interval and lower scheduler.worker_count")
	case code == http.StatusUnauthorized:
		return fail(firerunner.Unauthorized, "%s", words).
			WithHint("the token is wrong, expired or revoked: make a new one and replace gitlab.token_file")
	case code == http.StatusForbidden:
		return fail(firerunner.Unauthorized, "%s", words).
			WithHint("the token needs the scopes create_runner, manage_runner and read_api, and its user must be " +
				"Maintainer or Owner of the project")
	case code == http.StatusNotFound || code == http.StatusGone:
		return fail(firerunner.NotFound, "%s", words)
	case code == http.StatusConflict || code == http.StatusPreconditionFailed:
		return fail(firerunner.Conflict, "%s", words)
	case code == http.StatusRequestTimeout || code >= 500:
		return fail(firerunner.Unavailable, "%s", words)
	case strings.Contains(said, "Maximum number of") && strings.Contains(said, "runners"):
		// ci_registered_project_runners: https://docs.gitlab.com/administration/instance_limits/#number-of-registered-runners-for-each-scope
		return fail(firerunner.Exhausted, "%s", words).
			WithHint("delete runners of the project that nobody needs, or raise the plan limit ci_registered_project_runners")
	}
	return fail(firerunner.Invalid, "%s", words)
}

// unanswered is an error without an answer.
func (c *Client) unanswered(ctx context.Context, fail func(firerunner.Code, string, ...any) *firerunner.Error, err error) error {
	var redirect *redirectError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &redirect):
		return fail(firerunner.Invalid, "%s, and a token is not taken there", redirect).
			WithHint("set gitlab.url to the address that GitLab redirects to, if that is your GitLab")
	case errors.As(err, &cert):
		return fail(firerunner.Unavailable, "its certificate is not trusted: %s", c.tidy(cert.Error())).
			WithHint("put the certificate of its authority into gitlab.ca_file")
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return fail(firerunner.Unavailable, "no answer within %s", c.timeout).
			WithHint("check that GitLab is up and that gitlab.url, proxy and firewall let FireRunner reach it")
	case ctx.Err() != nil:
		return fail(firerunner.Unavailable, "given up: %s", ctx.Err())
	}
	return fail(firerunner.Unavailable, "no answer: %s", c.tidy(err.Error())).
		WithHint("check that GitLab is up and that gitlab.url, proxy and firewall let FireRunner reach it")
}

// rateLimited reads RateLimit-Reset (Unix seconds) and Retry-After (seconds):
// https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/#response-headers
func rateLimited(h http.Header, now time.Time) *RateLimited {
	const longest = time.Hour
	bound := func(d time.Duration) *RateLimited {
		d = min(max(d, 0), longest)
		return &RateLimited{Until: now.Add(d), Wait: d}
	}
	if s, err := strconv.ParseInt(h.Get("Retry-After"), 10, 32); err == nil && s > 0 {
		return bound(time.Duration(s) * time.Second)
	}
	if s, err := strconv.ParseInt(h.Get("RateLimit-Reset"), 10, 64); err == nil && s > 0 {
		return bound(time.Unix(min(s, 1<<40), 0).Sub(now))
	}
	return &RateLimited{}
}

// said is what GitLab's answer says about the error, on one line: "message", "error" and "error_description"
// (https://docs.gitlab.com/api/rest/troubleshooting/). Pages of proxies are left out.
func (c *Client) said(resp *gl.Response) string {
	body, ok := resp.Body.(*errorBody)
	if !ok {
		return ""
	}
	var answer struct {
		Message     any `json:"message"`
		Error       any `json:"error"`
		Description any `json:"error_description"`
	}
	if json.Unmarshal(body.text, &answer) != nil {
		return ""
	}
	var parts []string
	for _, v := range []any{answer.Message, answer.Error, answer.Description} {
		if text := flat(v); text != "" {
			parts = append(parts, text)
		}
	}
	return c.tidy(strings.Join(parts, ": "))
}

// flat writes GitLab's nested messages on one line.
func flat(v any) string {
	var parts []string
	switch v := v.(type) {
	case string:
		return v
	case []any:
		for _, item := range v {
			parts = append(parts, flat(item))
		}
	case map[string]any:
		for key, item := range v {
			parts = append(parts, key+" "+flat(item))
		}
		sort.Strings(parts)
	}
	return strings.Join(parts, ", ")
}

// tokenLike finds GitLab's tokens by their prefixes: https://docs.gitlab.com/security/tokens/#token-prefixes
var tokenLike = regexp.MustCompile(`\b(?:gl(?:pat|oas|dt|rtr?|cbt|ptt|ft|imt|agent|soat|ffct|wt)-|GR1348941|whsec_)[A-Za-z0-9_=.+/-]{8,}`)

// tidy makes foreign words fit for an error: bounded, on one line, and without anything like a token, in case that
// an answer repeats what was sent.
func (c *Client) tidy(text string) string {
	if token, err := c.token(); err == nil {
		text = strings.ReplaceAll(text, token.Reveal(), token.String())
	}
	return clean(tokenLike.ReplaceAllString(text, "[redacted]"), mostMessage)
}

// clean bounds foreign text in characters and leaves out what could control a terminal or break a line.
func clean(text string, most int) string {
	if len(text) > 4*most {
		text = text[:4*most]
	}
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool {
		return !unicode.IsPrint(r)
	}), " ")
	if utf8.RuneCountInString(text) > most {
		text = string([]rune(text)[:most]) + "..."
	}
	return text
}
