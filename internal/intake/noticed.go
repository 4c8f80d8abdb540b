package intake

import (
	"sync"
	"time"
)

// noticed remembers which projects were written down a moment ago, so that a pipeline of a thousand jobs does not write one
// row three thousand times. It is a saving only: who forgets writes again.
type noticed struct {
	mu sync.Mutex
	at map[int64]time.Time
}

const (
	noticeEvery = time.Minute // how exactly it is known when something was heard of a project
	mostNoticed = 10_000      // projects
)

// lately reports whether a project was written down less than noticeEvery before now.
func (n *noticed) lately(project int64, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.at[project]
	return ok && !now.Before(at) && now.Sub(at) < noticeEvery
}

// written notes that it was.
func (n *noticed) written(project int64, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at == nil || len(n.at) >= mostNoticed {
		n.at = map[int64]time.Time{}
	}
	n.at[project] = now
}
