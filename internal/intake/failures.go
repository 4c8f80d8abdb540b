package intake

import (
	"net/netip"
	"sync"
	"time"
)

const (
	window      = time.Minute
	mostSources = 4096 // some 400 KiB
)

// failures counts, for each source, the deliveries of the last minute that failed authentication. Its memory is
// bounded: who changes addresses faster than the table forgets them shares one count with all others like him.
type failures struct {
	most int
	now  func() time.Time

	mu      sync.Mutex
	counts  map[netip.Prefix]*count
	others  count
	cleaned time.Time
}

type count struct {
	began time.Time
	n     int
}

func newFailures(most int, now func() time.Time) *failures {
	return &failures{most: most, now: now, counts: map[netip.Prefix]*count{}}
}

// over counts a failure and reports whether there were too many.
func (f *failures) over(source netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	c := f.of(source, now)
	if age := now.Sub(c.began); age >= window || age < 0 { // below 0: the clock went back
		*c = count{began: now}
	}
	c.n = min(c.n+1, f.most+1)
	return c.n > f.most
}

// secondsLeft is how long until the source's count begins anew; at least 1.
func (f *failures) secondsLeft(source netip.Addr) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	left := window - now.Sub(f.of(source, now).began)
	return max(1, int((left+time.Second-1)/time.Second))
}

// of returns the count of a source, making one if there is room. The caller holds the lock.
func (f *failures) of(source netip.Addr, now time.Time) *count {
	bits := 32
	if source.Is6() {
		bits = 64 // one customer has at least a /64
	}
	key, _ := source.Prefix(bits) // all that cannot be told apart share the zero prefix
	if c := f.counts[key]; c != nil {
		return c
	}
	if len(f.counts) >= mostSources && now.Sub(f.cleaned) >= time.Second {
		f.cleaned = now
		for key, c := range f.counts {
			if age := now.Sub(c.began); age >= window || age < 0 { // below 0: the clock went back
				delete(f.counts, key)
			}
		}
	}
	if len(f.counts) >= mostSources {
		return &f.others
	}
	c := &count{began: now}
	f.counts[key] = c
	return c
}
