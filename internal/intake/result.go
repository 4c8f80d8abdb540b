package intake

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
)

// Result says what became of a delivery: the label of firerunner_webhooks_total, and what GitLab's page of recent
// deliveries shows to people.
type Result string

// The results. Those of authentic deliveries are 2xx, but for Malformed and Unavailable, which mean that something
// is broken and somebody should see it in GitLab.
const (
	Queued    Result = "queued"    // a step was enqueued
	Noted     Result = "noted"     // the project was noted; the job needs nothing
	Duplicate Result = "duplicate" // it was delivered before
	Ignored   Result = "ignored"   // not a job event, or not one that can be understood
	Shed      Result = "shed"      // too many at once; left to the sweep
	TooLarge  Result = "too_large" // authentic, but too large to look into; left to the sweep

	BadMethod    Result = "bad_method"
	Forbidden    Result = "forbidden"    // not from an allowed network
	Unauthorized Result = "unauthorized" // not signed, or without the token
	Limited      Result = "limited"      // the same, too often
	Unread       Result = "unread"       // the body did not arrive
	Malformed    Result = "malformed"    // authentic, but not JSON
	Unavailable  Result = "unavailable"  // the store did not take it; GitLab does not try again, the sweep repairs it
)

// Results lists all results, for metrics that start at zero.
func Results() []Result {
	return []Result{
		Queued, Noted, Duplicate, Ignored, Shed, TooLarge,
		BadMethod, Forbidden, Unauthorized, Limited, Unread, Malformed, Unavailable,
	}
}

// status is the HTTP status of a result.
func (r Result) status() int {
	switch r {
	case Queued, Noted, Duplicate, Ignored, Shed, TooLarge:
		return http.StatusOK
	case BadMethod:
		return http.StatusMethodNotAllowed
	case Forbidden:
		return http.StatusForbidden
	case Unauthorized:
		return http.StatusUnauthorized
	case Limited:
		return http.StatusTooManyRequests
	case Unread:
		return http.StatusRequestTimeout
	case Malformed:
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// answer writes a result. It tells a stranger no more than the status does.
func (in *Intake) answer(w http.ResponseWriter, r *http.Request, result Result) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch result {
	case BadMethod:
		h.Set("Allow", http.MethodPost)
	case Limited:
		h.Set("Retry-After", strconv.Itoa(in.failures.secondsLeft(in.source(r))))
		h.Set("Connection", "close")
	case TooLarge, Unauthorized, Forbidden, Unread:
		h.Set("Connection", "close") // do not read on only to be able to keep the connection
	}
	w.WriteHeader(result.status())
	fmt.Fprintf(w, "{\"result\":%q}\n", result)
}

// log writes a line for what somebody should look into. Strangers cannot fill the log: beyond some lines a second
// only the metric counts.
func (in *Intake) log(r *http.Request, result Result, err error) {
	level, msg, loud := slog.LevelDebug, "webhook taken", in.loud
	switch result {
	case Queued, Noted, Duplicate:
		in.cfg.Logger.Debug(msg, "result", string(result))
		return
	case Ignored, Malformed:
		level, msg = slog.LevelInfo, "webhook cannot be used"
	case Shed, TooLarge:
		level, msg = slog.LevelWarn, "webhook left to the sweep"
	case BadMethod, Forbidden, Unauthorized, Limited, Unread:
		level, msg, loud = slog.LevelWarn, "webhook refused", in.stranger
	case Unavailable:
		level, msg = slog.LevelError, "webhook not written down: the sweep will find the job"
	}
	if !in.cfg.Logger.Enabled(r.Context(), level) || !loud.AllowN(in.cfg.Now(), 1) {
		return
	}
	attrs := []slog.Attr{slog.String("result", string(result)), slog.String("source", in.source(r).String())}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	in.cfg.Logger.LogAttrs(r.Context(), level, msg, attrs...)
}
