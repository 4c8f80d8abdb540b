package control

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/placement"
)

// trials remembers which images failed on which hosts before a job started. After each failure the pair has a pause that
// doubles, then one runner tries it while the others wait or go elsewhere, and after GiveUpAfter failures in a row it is
// given up for GiveUpFor, with an event. So a broken image does not make microVMs in a circle, whichever and however many
// demands ask for it, and a broken host stops no other host and no image that works there. A job that was taken ends it.
//
// It is in memory, and made again from the rows when a process begins.
type trials struct {
	mu     sync.Mutex
	pairs  map[trialPair]trial
	placed map[string]time.Time // when runners were placed, as far as this process knows
	hints  map[string]string    // remedies of runners that are about to be rejected
}

type trialPair struct{ image, host string }

// trial is the present row of failures of one pair.
type trial struct {
	failures int
	failedAt time.Time
	until    time.Time // no runner is placed before
	digest   string    // of the image that failed last; empty: it did not come that far
	given    bool      // it is given up
	over     bool      // that its pause has ended was told
}

// trialMemory is how long failures count, after which an image is as good as new on a host.
const trialMemory = time.Hour

// blames reports whether an end says something about the image on the host, rather than about GitLab or demand.
func blames(o firerunner.Outcome, why firerunner.Reason) bool {
	if o != firerunner.Rejected {
		return false
	}
	switch why {
	case firerunner.ReasonCreateFailed, firerunner.ReasonDeadline, firerunner.ReasonVMExited, firerunner.ReasonGuestError, firerunner.ReasonRunnerExited:
		return true
	}
	return false
}

// after is the pair's trial once a runner that was placed at that time has failed. One that was placed before the last
// failure was known is part of the same try: ten runners that meet one broken image at once are one failure.
func (t trial) after(placedAt, now time.Time, digest string, c Config) (next trial, news bool) {
	if t.failures > 0 && now.Sub(t.failedAt) > trialMemory || t.digest != "" && digest != "" && t.digest != digest {
		t = trial{}
	}
	next, news = t, t.failures == 0 || placedAt.After(t.failedAt)
	if news {
		next.failures++
	}
	next.failedAt, next.digest = now, digest
	pause := longestPause
	if n := next.failures - 1; n < 16 {
		pause = min(firstPause<<n, longestPause)
	}
	if next.given = next.failures >= c.GiveUpAfter; next.given {
		pause = c.GiveUpFor
	}
	next.until, next.over = now.Add(pause), false
	return next, news
}

// get returns the trial of a pair, and when the runner was placed.
func (t *trials) get(p trialPair, runner string) (now trial, placedAt time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pairs[p], t.placed[runner]
}

func (t *trials) set(p trialPair, to trial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pairs == nil || len(t.pairs) >= rejectionsMost {
		t.pairs = map[trialPair]trial{}
	}
	t.pairs[p] = to
}

// forget ends the trials that match.
func (t *trials) forget(match func(p trialPair, is trial) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, is := range t.pairs {
		if match(p, is) {
			delete(t.pairs, p)
		}
	}
}

// place notes when a runner was placed, until it is gone.
func (t *trials) place(runner string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.placed == nil {
		t.placed = map[string]time.Time{}
	}
	t.placed[runner] = at
}

func (t *trials) hint(runner, hint string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hints == nil {
		t.hints = map[string]string{}
	}
	if hint != "" {
		t.hints[runner] = hint
	}
}

func (t *trials) gone(runner string) (hint string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	hint = t.hints[runner]
	delete(t.hints, runner)
	delete(t.placed, runner)
	return hint
}

// goBack has pauses that begin later than now begin now: the clock went back. The lock is held.
func (t *trials) goBack(now time.Time) {
	for p, is := range t.pairs {
		if ahead := is.failedAt.Sub(now); ahead > 0 {
			is.failedAt, is.until = now, is.until.Add(-ahead)
			t.pairs[p] = is
		}
	}
}

// over reports whether a pause has ended since it was asked last: then a runner may be placed.
func (t *trials) over(now time.Time) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.goBack(now)
	for p, is := range t.pairs {
		if !is.over && !now.Before(is.until) {
			is.over, news = true, true
			t.pairs[p] = is
		}
	}
	return news
}

// failing is what placement is to know: pairs that pause, and pairs that one runner may try. live are the runners now.
func (t *trials) failing(now time.Time, live []firerunner.Runner, imageOf func(firerunner.Runner) string) (all []placement.Failing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.goBack(now)
	for p, is := range t.pairs {
		if now.Sub(is.failedAt) > max(trialMemory, is.until.Sub(is.failedAt)) {
			delete(t.pairs, p)
			continue
		}
		f := placement.Failing{Image: p.image, Host: p.host}
		switch trying := slices.ContainsFunc(live, func(r firerunner.Runner) bool {
			return r.Host == p.host && r.State >= firerunner.Placed && r.State <= firerunner.Ready && r.Desired == firerunner.Wanted && imageOf(r) == p.image
		}); {
		case now.Before(is.until):
			f.Why = fmt.Sprintf("image %s failed there (%d in a row); the next try is at %s", p.image, is.failures, is.until.UTC().Format(time.TimeOnly))
		case trying:
			f.Why = fmt.Sprintf("image %s failed there, and is being tried with another runner", p.image)
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b placement.Failing) int {
		if a.Image != b.Image {
			return strings.Compare(a.Image, b.Image)
		}
		return strings.Compare(a.Host, b.Host)
	})
	return all
}

// everywhere reports whether an image has failed on each of the hosts, and when it may be tried again on one of them.
func (t *trials) everywhere(now time.Time, image string, hosts []firerunner.Host) (until time.Time, failed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.goBack(now)
	for _, h := range hosts {
		if h.Draining || h.Lost || h.Trouble != "" {
			continue
		}
		is, failing := t.pairs[trialPair{image, h.Name}]
		if !failing {
			return time.Time{}, false
		}
		if !failed || is.until.Before(until) {
			until = is.until
		}
		failed = true
	}
	return until, failed
}

// given returns the pairs that are given up.
func (t *trials) given() map[trialPair]trial {
	t.mu.Lock()
	defer t.mu.Unlock()
	given := map[trialPair]trial{}
	for p, is := range t.pairs {
		if is.given {
			given[p] = is
		}
	}
	return given
}
