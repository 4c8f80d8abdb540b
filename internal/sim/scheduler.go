package sim

import (
	"cmp"
	"container/heap"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// scheduler gives one turn at a time. Between two turns everybody waits: for a turn, for an answer, or for time to pass. So
// whoever has the turn is alone, may draw from chance, and changes the world before anybody else looks at it.
type scheduler struct {
	chance *rand.Rand // only for who has the turn
	began  time.Time
	agenda agenda
	booked int64
	wake   chan struct{}
	turns  int64

	mu      sync.Mutex
	round   int64
	waiting []*turn
	held    map[string]bool // processes that stand still; only for who has the turn
	unclear int             // turns that could not be told apart; each is a risk for the replay
}

// turn is somebody who waits for its turn.
type turn struct {
	round int64
	who   string
	begin chan struct{}
}

func newScheduler(seed uint64) *scheduler {
	return &scheduler{
		chance: rand.New(rand.NewPCG(seed, 0x5eed)), began: time.Now(), wake: make(chan struct{}, 1), held: map[string]bool{},
	}
}

// take waits for a turn. It lasts until the goroutine waits for something again. who tells it from others that come
// between the same two turns, for what order they come in is not the seed's to decide.
func (s *scheduler) take(who string) {
	t := &turn{who: who, begin: make(chan struct{})}
	s.mu.Lock()
	t.round = s.round
	s.waiting = append(s.waiting, t)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	<-t.begin
}

// release lets everybody go on at once that which says: those of a daemon that has died, who can do nothing any more.
func (s *scheduler) release(which func(who string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(t *turn) bool {
		if !which(t.who) {
			return false
		}
		close(t.begin)
		return true
	})
}

// appointment is something that the world does at a time.
type appointment struct {
	at  time.Time
	seq int64
	do  func()
}

// after books do for so long from now. It runs in a turn of its own and must not wait for anything.
func (s *scheduler) after(d time.Duration, do func()) {
	s.booked++
	heap.Push(&s.agenda, appointment{time.Now().Add(max(d, 0)), s.booked, do})
}

type agenda []appointment

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return cmp.Or(a[i].at.Compare(a[j].at), cmp.Compare(a[i].seq, a[j].seq)) < 0
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(appointment)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// run gives turns until done says so, which is asked each time that there is nothing more to do at this instant. due
// returns what else could begin now, and when more of it will.
func (s *scheduler) run(done func() bool, due func() (begin []func(), next time.Time)) {
	for {
		synctest.Wait()
		now := time.Now()
		begin, next := due()
		ready := s.ready()
		choices := len(ready) + len(begin)
		dueNow := len(s.agenda) > 0 && !s.agenda[0].at.After(now)
		if dueNow {
			choices++
		}
		if choices == 0 {
			if done() {
				return
			}
			if len(s.agenda) > 0 && (next.IsZero() || s.agenda[0].at.Before(next)) {
				next = s.agenda[0].at
			}
			s.pause(next)
			continue
		}
		s.turns++
		switch i := s.chance.IntN(choices); {
		case i < len(ready):
			s.begin(ready[i])
		case i < len(ready)+len(begin):
			begin[i-len(ready)]()
		default:
			heap.Pop(&s.agenda).(appointment).do()
		}
	}
}

// ready returns who waits, in an order that depends on nothing but the seed.
func (s *scheduler) ready() []*turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortStableFunc(s.waiting, func(a, b *turn) int {
		return cmp.Or(cmp.Compare(a.round, b.round), cmp.Compare(a.who, b.who))
	})
	for i := 1; i < len(s.waiting); i++ {
		if a, b := s.waiting[i-1], s.waiting[i]; a.round == b.round && a.who == b.who && a.round == s.round {
			s.unclear++
		}
	}
	s.round++
	if len(s.held) == 0 {
		return slices.Clone(s.waiting)
	}
	var ready []*turn
	for _, t := range s.waiting {
		if process, _, _ := strings.Cut(t.who, "|"); !s.held[process] {
			ready = append(ready, t)
		}
	}
	return ready
}

func (s *scheduler) begin(t *turn) {
	s.mu.Lock()
	s.waiting = slices.DeleteFunc(s.waiting, func(o *turn) bool { return o == t })
	s.mu.Unlock()
	close(t.begin)
}

// pause lets time pass until somebody wants a turn, or until next. A run always has something booked: its own end.
func (s *scheduler) pause(next time.Time) {
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	select {
	case <-s.wake:
	case <-timer.C:
	}
}

// Chance.

func (s *scheduler) happens(p float64) bool { return p > 0 && s.chance.Float64() < p }

// between draws a time, to the microsecond, so that two things hardly ever happen at once.
func (s *scheduler) between(least, most time.Duration) time.Duration {
	if most <= least {
		return least
	}
	return least + time.Duration(s.chance.Int64N(int64(most-least)/1000+1))*1000 + time.Duration(s.chance.IntN(1000))
}

func pick[T any](s *scheduler, of ...T) T { return of[s.chance.IntN(len(of))] }

// clock is how long the run lasts.
func (s *scheduler) clock() time.Duration { return time.Since(s.began) }
