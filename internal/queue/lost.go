package queue

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// River writes the end of a step down by itself, some times, and then gives up: a database that was away for longer leaves
// steps that count as running although nobody runs them, until they are rescued minutes later. So this process remembers
// what it really runs, and makes the others due again. A step may run twice.

const (
	lostEvery = 5 * time.Second
	// lostAfter is how long a step may have begun before without being known here: it was fetched a moment ago, or its end
	// is being written.
	lostAfter = 20 * time.Second
)

// underWay is the steps that this process runs, by River's number.
type underWay struct {
	mu  sync.Mutex
	ids map[int64]bool
}

func (u *underWay) begin(id int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ids == nil {
		u.ids = map[int64]bool{}
	}
	u.ids[id] = true
}

func (u *underWay) end(id int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.ids, id)
}

// without returns those of ids that are not under way.
func (u *underWay) without(ids []int64) (lost []int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range ids {
		if !u.ids[id] {
			lost = append(lost, id)
		}
	}
	return lost
}

// findLost makes lost steps due again until ctx ends.
func (q *Queue) findLost(ctx context.Context) {
	tick := time.NewTicker(lostEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n, err := q.findLostOnce(ctx, lostAfter); err != nil && ctx.Err() == nil {
			q.config.Logger.DebugContext(ctx, "could not look for lost steps; trying again", slog.Any("error", err))
		} else if n > 0 {
			q.config.Logger.WarnContext(ctx, "steps whose end could not be written are due again", slog.Int("steps", n))
		}
	}
}

func (q *Queue) findLostOnce(ctx context.Context, after time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, lostEvery)
	defer cancel()
	ids, err := q.river.running(ctx, after)
	if err != nil {
		return 0, err
	}
	lost := q.underWay.without(ids)
	if len(lost) == 0 {
		return 0, nil
	}
	return len(lost), q.river.again(ctx, lost)
}
