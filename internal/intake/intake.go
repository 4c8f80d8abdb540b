// Package intake hears from GitLab that something happened: it verifies a webhook, writes down durably what it asks
// for, and answers within milliseconds. It never asks GitLab anything itself: a webhook is a hint, and the step that
// it leaves behind reads the truth.
//
// GitLab does not send a failed delivery again, and counts every 4xx and 5xx against the webhook until it switches
// it off (https://docs.gitlab.com/user/project/integrations/webhooks/#auto-disabled-webhooks). So everything that is
// authentic gets a 2xx, even what is ignored or cannot be served now; the sweep finds what got lost.
package intake

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/firerunner/firerunner"
)

// Config is what an Intake needs. Store is required, and one of SigningTokens, Tokens and AllowUnauthenticated.
type Config struct {
	Store firerunner.Store

	// SigningTokens (whsec_..., GitLab 19.0 and later) verify body, time and identity of a delivery. If there is
	// one, deliveries must be signed: X-Gitlab-Token is then not enough. Several are for rotation.
	SigningTokens []firerunner.Secret
	// Tokens are the plain secrets that older servers send in X-Gitlab-Token. Several are for rotation.
	Tokens []firerunner.Secret
	// AllowUnauthenticated takes deliveries from anybody while there is neither. For tests and closed networks.
	AllowUnauthenticated bool

	AllowedNetworks []netip.Prefix // who may deliver; empty: everybody
	TrustedProxies  []netip.Prefix // whose X-Forwarded-For is believed

	// BodyLimit is how much of a delivery is held in memory; 1 MiB. A Job Hook has 3 to 10 KiB; GitLab sends up to
	// 25 MB, and only because of the commit's message.
	BodyLimit int64
	// FailuresPerMinute is how many deliveries that fail authentication one source (an IPv4 address, an IPv6 /64)
	// may send in a minute before it is told to go away; 100. Authentic deliveries pass whatever their source did.
	FailuresPerMinute int
	// DeliveriesPerSecond and Burst bound what authentic deliveries may write; 1000 and 5000. What is beyond is
	// answered 2xx and left to the sweep.
	DeliveriesPerSecond float64
	Burst               int
	// TimestampTolerance is how old, or how far in the future, a signed delivery may be; 5 min.
	TimestampTolerance time.Duration
	// ReadTimeout is how long a delivery's body may take to arrive; 10 s, which is GitLab's own patience.
	ReadTimeout time.Duration
	// StoreTimeout is how long writing it down may take; 8 s.
	StoreTimeout time.Duration
	// LargeBodies is how many bodies beyond 64 KiB are held at once; 64. What is beyond is left to the sweep.
	LargeBodies int

	Observe func(result Result, took time.Duration) // each request; nil: nobody looks
	Logger  *slog.Logger                            // nil: nothing is logged
	Now     func() time.Time                        // nil: time.Now
}

// Intake answers POST /webhook. It may be used by several goroutines.
type Intake struct {
	cfg      Config
	signing  [][]byte   // keys
	tokens   [][32]byte // SHA-256 of each
	failures *failures
	noticed  noticed
	capacity *rate.Limiter
	large    chan struct{} // one place for each large body
	loud     *rate.Limiter // bounds log lines about ourselves
	stranger *rate.Limiter // bounds log lines that a stranger can cause
}

// New makes an intake. Its errors are Invalid.
func New(cfg Config) (*Intake, error) {
	if cfg.Store == nil {
		return nil, firerunner.Errorf(firerunner.Internal, "intake: no store")
	}
	cfg = withDefaults(cfg)
	in := &Intake{
		cfg:      cfg,
		failures: newFailures(cfg.FailuresPerMinute, cfg.Now),
		capacity: rate.NewLimiter(rate.Limit(cfg.DeliveriesPerSecond), cfg.Burst),
		large:    make(chan struct{}, cfg.LargeBodies),
		loud:     rate.NewLimiter(1, 20),
		stranger: rate.NewLimiter(1, 20),
	}
	for i, token := range cfg.SigningTokens {
		key, err := signingKey(token)
		if err != nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "intake: signing token %d: %w", i+1, err).
				WithHint("GitLab shows it once, when it is made: whsec_ and 44 characters")
		}
		in.signing = append(in.signing, key)
	}
	for i, token := range cfg.Tokens {
		if token == "" {
			return nil, firerunner.Errorf(firerunner.Invalid, "intake: secret token %d is empty", i+1)
		}
		in.tokens = append(in.tokens, hashed(token.Reveal()))
	}
	if len(in.signing) == 0 && len(in.tokens) == 0 && !cfg.AllowUnauthenticated {
		return nil, firerunner.Errorf(firerunner.Invalid, "intake: webhooks could come from anybody: no signing token and no secret token").
			WithHint("set gitlab.signing_token_file (GitLab 19.0 and later) or gitlab.webhook_secret_file")
	}
	return in, nil
}

func withDefaults(cfg Config) Config {
	if cfg.BodyLimit <= 0 {
		cfg.BodyLimit = 1 << 20
	}
	if cfg.FailuresPerMinute <= 0 {
		cfg.FailuresPerMinute = 100
	}
	if cfg.DeliveriesPerSecond <= 0 {
		cfg.DeliveriesPerSecond = 1000
	}
	if cfg.Burst <= 0 {
		cfg.Burst = 5 * max(1, int(cfg.DeliveriesPerSecond))
	}
	if cfg.TimestampTolerance <= 0 {
		cfg.TimestampTolerance = 5 * time.Minute
	}
	if cfg.ReadTimeout <= 0 {
		cfg.ReadTimeout = 10 * time.Second
	}
	if cfg.StoreTimeout <= 0 {
		cfg.StoreTimeout = 8 * time.Second
	}
	if cfg.LargeBodies <= 0 {
		cfg.LargeBodies = 64
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Result, time.Duration) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg
}

// ServeHTTP answers one delivery.
func (in *Intake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := in.cfg.Now()
	result, err := in.receive(w, r)
	in.log(r, result, err)
	in.cfg.Observe(result, in.cfg.Now().Sub(began))
	in.answer(w, r, result)
}

// receive does the work in the order of cost: who may ask at all, who it is, what it says, writing it down.
func (in *Intake) receive(w http.ResponseWriter, r *http.Request) (Result, error) {
	source := in.source(r)
	switch {
	case r.Method != http.MethodPost:
		return BadMethod, nil
	case !in.allowed(source):
		return Forbidden, nil
	}
	// Where the server cannot set a deadline (tests without a connection), its own timeouts hold.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(in.cfg.ReadTimeout))
	rd := &reading{in: in}
	defer rd.done()
	body, err := rd.authentic(r)
	switch {
	case errors.Is(err, errNotAuthentic):
		if in.failures.over(source) {
			return Limited, err
		}
		return Unauthorized, err
	case errors.Is(err, errTooLarge):
		return TooLarge, nil // authentic all the same: signed as a whole, or sent with the token
	case err != nil:
		return Unread, err
	}
	_ = control.SetReadDeadline(time.Time{})

	said, err := parse(r.Header, body)
	switch {
	case errors.Is(err, errNotJSON):
		return Malformed, err
	case err != nil:
		return Ignored, err
	case !in.capacity.AllowN(in.cfg.Now(), 1):
		return Shed, nil
	}
	// The client hanging up must not undo the write: GitLab will not deliver again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), in.cfg.StoreTimeout)
	defer cancel()
	return in.record(ctx, deliveryKey(r.Header, said), said)
}
