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

// idleShare: every so many questions one belongs to a project that is not active, where one waits: however many are active,
// the others are asked too.
const idleShare = 5

// planSweep chooses whom to ask in a round of at most n requests, and in which order. Active projects are asked in each
// round, as far as it has room; the others when their time has come, who waits longest first. asked is how many questions
// there were before this round: whose turn is next goes on from there, so that rounds that are cut short, even after one
// question, starve neither.
func planSweep(all []swept, now time.Time, n int, salt uint64, asked int64) []int64 {
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
	turns := (asked+int64(n))/idleShare - asked/idleShare
	share := min(len(idle), int(turns))
	active = active[:min(len(active), n-share)]
	idle = idle[:min(len(idle), n-len(active))]
	return takeTurns(active, idle, asked)
}

// takeTurns merges two lists: active ones first, but for the questions that belong to the others.
func takeTurns(active, idle []swept, asked int64) []int64 {
	order := make([]int64, 0, len(active)+len(idle))
	for i, j := 0, 0; i < len(active) || j < len(idle); asked++ {
		if i >= len(active) || j < len(idle) && asked%idleShare == idleShare-1 {
			order = append(order, idle[j].id)
			j++
		} else {
			order = append(order, active[i].id)
			i++
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
