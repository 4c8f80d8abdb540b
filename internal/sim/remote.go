package sim

import (
	"context"
	"errors"
	"time"

	"github.com/firerunner/firerunner"
)

// trip is what becomes of one call over a network.
type trip struct {
	there, back time.Duration
	refuse      error // the answer, and nothing happens
	noEffect    bool  // the request is lost: nothing happens, and nobody answers
	noAnswer    error // it happens, and this is the answer; see silent
	silent      bool  // nobody answers: the caller waits for as long as it has patience
	inside      bool  // nothing travels: the process itself does it, and what it has not done when it dies or gives up is never done
}

// errDead is what a dead daemon's calls end with. Nobody hears of it but dead goroutines.
var errDead = errors.New("the daemon is dead")

// connectionLost is the answer of a network that has lost a request or its answer, where the caller waits for ever.
const connectionLost = 40 * time.Second

// remote does something beyond the daemon: the request travels, it happens, the answer travels. Once sent, it happens
// whether or not the daemon still waits for it, or lives; but see trip.inside.
func remote[T any](ctx context.Context, d *daemon, what string, plan func() trip, effect func() (T, error)) (T, error) {
	var zero T
	if err := d.turn(ctx, what, true); err != nil {
		return zero, err
	}
	if ctx.Err() != nil {
		return zero, firerunner.Errorf(firerunner.Unavailable, "%s: %w", what, context.Cause(ctx))
	}
	type result struct {
		v   T
		err error
	}
	w, p := d.w, plan()
	answered := make(chan result, 1)
	answer := func(v T, err error) { w.after(p.back, func() { answered <- result{v, err} }) }
	w.after(p.there, func() {
		if p.inside && (d.dead.Load() || ctx.Err() != nil) || d.dead.Load() && w.happens(0.5) {
			return // it had not left the machine yet
		}
		switch {
		case p.refuse != nil:
			answer(zero, p.refuse)
			return
		case p.noEffect:
		default:
			v, err := effect()
			if p.noAnswer == nil && !p.silent {
				answer(v, err)
				return
			}
		}
		if p.silent || p.noEffect {
			p.back = max(p.back, connectionLost)
			answer(zero, firerunner.Errorf(firerunner.Unavailable, "%s: the connection was lost", what))
			return
		}
		answer(zero, p.noAnswer)
	})
	var r result
	select {
	case r = <-answered:
	case <-ctx.Done():
		r.err = firerunner.Errorf(firerunner.Unavailable, "%s: %w", what, context.Cause(ctx))
	case <-d.died:
		return zero, errDead
	}
	if err := d.turn(ctx, what+" answered", true); err != nil {
		return zero, err
	}
	return r.v, r.err
}

func remoteErr(ctx context.Context, d *daemon, what string, plan func() trip, effect func() error) error {
	_, err := remote(ctx, d, what, plan, func() (struct{}, error) { return struct{}{}, effect() })
	return err
}

// limited is GitLab's 429: it says when to come back.
type limited struct{ after time.Duration }

func (l limited) Error() string             { return "too many requests" }
func (l limited) RetryAfter() time.Duration { return l.after }
