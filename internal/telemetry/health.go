package telemetry

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// Alive answers GET /healthz: the process is there and serves. It asks nobody, so that a slow store or GitLab never
// makes a supervisor kill a daemon whose microVMs are at work.
func Alive() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
	})
}

// Check asks one part whether it works. It must return soon after its context ends. Its error's code is shown to
// everybody, its words go to the log only.
type Check func(ctx context.Context) error

// Readiness answers GET /readyz: 200 if every part works, 503 if not, with a JSON object that names the parts that
// do not. Answers are kept for a moment, so that no number of scrapes becomes a number of calls to GitLab. Ready makes
// one; its fields may be set before it is used.
type Readiness struct {
	Timeout time.Duration    // of each check; 3 s
	Keep    time.Duration    // how long an answer is kept; 1 s
	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger     // nil: nothing is logged

	checks map[string]Check
	turn   chan struct{} // holds one: who has it may use what follows
	at     time.Time
	answer readiness
}

type readiness struct {
	Ready bool            `json:"ready"`
	Parts map[string]part `json:"parts"`
}

type part struct {
	OK   bool            `json:"ok"`
	Code firerunner.Code `json:"code,omitempty"`
}

// Ready returns a Readiness with the usual timings.
func Ready(checks map[string]Check) *Readiness {
	return &Readiness{checks: checks, turn: make(chan struct{}, 1)}
}

// ServeHTTP answers from the kept answer, or asks every part at once. Those who come meanwhile wait for the same
// answer.
func (r *Readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	answer, ok := r.current(req.Context())
	if !ok {
		return // who asked has gone
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}

func (r *Readiness) current(ctx context.Context) (answer readiness, ok bool) {
	now, keep := r.Now, r.Keep
	if now == nil {
		now = time.Now
	}
	if keep <= 0 {
		keep = time.Second
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return readiness{}, false
	}
	if r.at.IsZero() || now().Sub(r.at) >= keep {
		before := r.answer
		// One scraper that hangs up must not spoil the answer for the others.
		r.answer = r.ask(context.WithoutCancel(ctx), before)
		r.at = now()
	}
	return r.answer, true
}

// ask runs all checks at once and waits for all of them. It logs the parts that failed or came back since before.
func (r *Readiness) ask(ctx context.Context, before readiness) readiness {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer := readiness{Ready: true, Parts: map[string]part{}}
	var mu sync.Mutex
	var running sync.WaitGroup
	for name, check := range r.checks {
		running.Go(func() {
			err := check(ctx)
			mu.Lock()
			defer mu.Unlock()
			answer.Parts[name] = part{OK: err == nil, Code: firerunner.CodeOf(err)}
			answer.Ready = answer.Ready && err == nil
			was, asked := before.Parts[name]
			switch {
			case r.Logger == nil:
			case err != nil && (was.OK || !asked):
				r.Logger.Warn("not ready", "part", name, "error", err, "hint", firerunner.HintOf(err))
			case err == nil && asked && !was.OK:
				r.Logger.Info("ready again", "part", name)
			}
		})
	}
	running.Wait()
	return answer
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who asked has gone: nothing to do
}
