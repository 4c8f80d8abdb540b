package control

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"
)

// swept is a project as the plan of the sweep sees it.
type swept struct {
	id      int64
	active  bool          // there was a sign of life lately, or something of it runs
	askedAt time.Time     // zero: not since this process began
	every   time.Duration // how often at most, where it is not active
}

// idleShare is the part of a round that belongs to projects that are not active, where they could use it: however many are
// active, the others are asked too.
const idleShare = 5

// planSweep chooses whom to ask in a round of at most n requests, and in which order. Active projects are asked in each
// round, as far as it has room; the others when their time has come, who waits longest first. Both take turns in the order
// in proportion, so that a round that is cut short starves neither: whoever was left out waits longest in the next one.
func planSweep(all []swept, now time.Time, n int, salt uint64) []int64 {
	if n <= 0 {
		return nil
	}
	var active, idle []swept
	for _, p := range all {
		switch {
		case p.active:
			active = append(active, p)
		case p.askedAt.IsZero() || now.Sub(p.askedAt) >= p.every || p.askedAt.After(now): // After: a clock that jumped
			idle = append(idle, p)
		}
	}
	byWait := func(a, b swept) int {
		// Who was never asked comes in another order in each process: else one that starts often would starve the last ones.
		return cmp.Or(a.askedAt.Compare(b.askedAt), cmp.Compare(turn(a.id, salt), turn(b.id, salt)), cmp.Compare(a.id, b.id))
	}
	slices.SortFunc(active, byWait)
	slices.SortFunc(idle, byWait)
	share := min(len(idle), max(1, n/idleShare))
	active = active[:min(len(active), max(n-share, 0))]
	idle = idle[:min(len(idle), n-len(active))]
	return interleave(active, idle)
}

// interleave merges two lists so that each is spread evenly over the whole.
func interleave(a, b []swept) []int64 {
	order := make([]int64, 0, len(a)+len(b))
	for i, j := 0, 0; i < len(a) || j < len(b); {
		if j >= len(b) || i < len(a) && (2*i+1)*len(b) <= (2*j+1)*len(a) {
			order = append(order, a[i].id)
			i++
		} else {
			order = append(order, b[j].id)
			j++
		}
	}
	return order
}

func turn(id int64, salt uint64) uint64 {
	h := fnv.New64a()
	var b [16]byte
	for i := range 8 {
		b[i], b[8+i] = byte(id>>(8*i)), byte(salt>>(8*i))
	}
	_, _ = h.Write(b[:]) // a hash takes everything
	return h.Sum64()
}
