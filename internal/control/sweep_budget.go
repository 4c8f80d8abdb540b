package control

import (
	"context"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// stepsShare is the part of GitLab's limit that is left to the steps that jobs wait for, and to whatever else uses the same
// token: the sweep stops when no more than that remains.
const stepsShare = 3

// pace is how many requests a minute the sweep may make: what it is given, or less where GitLab's limit leaves less until
// its window ends. Zero: none before until.
func pace(perMinute int, q firerunner.Quota, now time.Time) (rate float64, until time.Time) {
	if q.Limit <= 0 || !q.Reset.After(now) {
		return float64(perMinute), time.Time{}
	}
	spare := q.Remaining - (q.Limit+stepsShare-1)/stepsShare
	if spare <= 0 {
		return 0, q.Reset
	}
	return min(float64(perMinute), float64(spare)/q.Reset.Sub(now).Minutes()), time.Time{}
}

// budget is how many requests to GitLab everything that is not a step may make: the sweep, its discovery, the look at
// webhooks. It fills up with time, and so far only that a burst is ten seconds' worth.
type budget struct {
	perMinute int
	quota     func() firerunner.Quota // nil: GitLab's limits are not known
	clock     func() time.Time        // one that does not jump

	mu     sync.Mutex
	tokens float64
	at     time.Time // when tokens were counted; zero: never
	spent  int64     // ever
}

func (b *budget) burst() float64 { return max(1, float64(b.perMinute)/6) }

// fill counts what has come in since the last time. The lock is held.
func (b *budget) fill() (rate float64, until, now time.Time) {
	now = b.clock()
	var q firerunner.Quota
	if b.quota != nil {
		q = b.quota()
	}
	rate, until = pace(b.perMinute, q, now)
	if b.at.IsZero() {
		b.tokens = b.burst()
	} else {
		b.tokens = min(b.burst(), b.tokens+rate*now.Sub(b.at).Minutes())
	}
	b.at = now
	return rate, until, now
}

// take spends one request, or says how long to wait before asking again.
func (b *budget) take() (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	rate, until, now := b.fill()
	switch {
	case rate <= 0:
		return max(until.Sub(now), time.Millisecond)
	case b.tokens < 1:
		return max(time.Duration((1-b.tokens)/rate*float64(time.Minute)), time.Millisecond)
	}
	b.tokens--
	b.spent++
	return 0
}

// charge spends n requests that are made anyway, as a debt where there is not so much.
func (b *budget) charge(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	b.tokens -= float64(n)
	b.spent += int64(n)
}

// part spends up to n requests, as many as there are now.
func (b *budget) part(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	rate, _, _ := b.fill()
	if rate <= 0 {
		return 0
	}
	n = min(n, max(int(b.tokens), 0))
	b.tokens -= float64(n)
	b.spent += int64(n)
	return n
}

// state is what is seen of it from outside.
func (b *budget) state() (rate float64, spent int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	rate, _, _ = b.fill()
	return rate, b.spent
}

// wait takes one request, when there is one; ok = false: not before the end, or ctx is over.
func (b *budget) wait(ctx context.Context, end time.Time) (ok bool) {
	for ctx.Err() == nil {
		wait := b.take()
		if wait == 0 {
			return true
		}
		if b.clock().Add(wait).After(end) {
			return false
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return false
}
