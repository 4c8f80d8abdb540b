package control

import (
	"sync"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/placement"
)

// rejections remembers which hosts could not make a runner for a demand, so that the next one is tried elsewhere first. It
// is a hint, so it is in memory only: after a crash a bad host may be tried once more.
type rejections struct {
	mu sync.Mutex
	at map[rejection]time.Time
}

type rejection struct {
	demand firerunner.Demand
	host   string
}

// rejectionsMost keeps a flood of demands from filling the memory.
const rejectionsMost = 10_000

func (r *rejections) add(d firerunner.Demand, host string, now time.Time) {
	if host == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil || len(r.at) >= rejectionsMost {
		r.at = map[rejection]time.Time{}
	}
	r.at[rejection{d, host}] = now
}

// recent returns those that still count and forgets the others.
func (r *rejections) recent(now time.Time) []placement.Rejection {
	r.mu.Lock()
	defer r.mu.Unlock()
	var recent []placement.Rejection
	for key, at := range r.at {
		if now.Sub(at) > rejectedWindow {
			delete(r.at, key)
			continue
		}
		recent = append(recent, placement.Rejection{Demand: key.demand, Host: key.host, At: at})
	}
	return recent
}
