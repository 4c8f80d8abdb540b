// Package placement decides which host carries which runner, or says why none does. It is pure: runners and hosts
// in, decisions with reasons out. Nothing is reserved here; the caller writes the decision and the reservation in
// one transaction.
package placement

import (
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/firerunner/firerunner"
)

// Round is what is known when a round of decisions begins.
type Round struct {
	Loads []Load
	// Labels returns the labels that a host must have for a profile; nil: none for any.
	Labels func(profile string) []string
	// Rejected are the recent rejections: a host that could not make a runner for a demand comes last for the next one.
	Rejected []Rejection
	// Failing are images that failed on hosts of late; Image returns the image of a profile. nil: none has.
	Failing []Failing
	Image   func(profile string) string
	Now     time.Time
	// HoldAfter is how long a runner waits before one host is kept free for it; 0: for ever, and then small runners can
	// starve a large one.
	HoldAfter time.Duration
}

// Rejection is a host that could not make a runner.
type Rejection struct {
	Demand firerunner.Demand
	Host   string
	At     time.Time
}

// Decision is the answer for one runner: a host, or the reason why there is none.
type Decision struct {
	RunnerID string
	Host     string     // empty: no host
	Address  netip.Addr // from the host's pool; invalid: it has none
	Why      string     // in words; only if there is no host
}

// Plan is one round. Each decision counts for those after it, so no host is ever over its capacity.
type Plan struct {
	round    Round
	loads    []Load
	rejected map[firerunner.Demand]map[string]time.Time
	failing  map[pair]string  // why not; empty: one may try
	refused  map[class]string // why runners of a class have no host: capacity only falls within a round
}

// class is all of a runner that a refusal depends on.
type class struct {
	vcpus, memoryMiB int
	profile          string
}

// want is a runner that wants a host.
type want struct {
	firerunner.Runner
	labels   []string
	image    string
	rejected map[string]time.Time
	failing  map[pair]string
}

// New begins a round. The loads are its own from now on.
func New(round Round) *Plan {
	p := &Plan{
		round: round, loads: round.Loads,
		rejected: map[firerunner.Demand]map[string]time.Time{}, failing: map[pair]string{}, refused: map[class]string{},
	}
	for _, f := range round.Failing {
		p.failing[pair{f.Image, f.Host}] = f.Why
	}
	for _, r := range round.Rejected {
		hosts := p.rejected[r.Demand]
		if hosts == nil {
			hosts = map[string]time.Time{}
			p.rejected[r.Demand] = hosts
		}
		if r.At.After(hosts[r.Host]) {
			hosts[r.Host] = r.At
		}
	}
	return p
}

// Decide places runners in their order, the longest waiting first. A runner that does not fit holds up smaller ones
// behind it on one host at most, and only once it has waited for HoldAfter.
func Decide(round Round, runners []firerunner.Runner) []Decision {
	p := New(round)
	decisions := make([]Decision, 0, len(runners))
	for _, r := range runners {
		decisions = append(decisions, p.Place(r))
	}
	return decisions
}

// Place decides for the next runner. It looks at each host once, or, where a runner of the same size and profile was
// refused before it, at none.
func (p *Plan) Place(r firerunner.Runner) Decision {
	kind := class{r.Size.VCPUs, r.Size.MemoryMiB, r.Profile}
	if why, known := p.refused[kind]; known {
		return Decision{RunnerID: r.ID, Why: why}
	}
	w := want{Runner: r, rejected: p.rejected[r.Demand], failing: p.failing}
	if p.round.Image != nil {
		w.image = p.round.Image(r.Profile)
	}
	if p.round.Labels != nil {
		w.labels = p.round.Labels(r.Profile)
	}
	best := p.best(&w)
	if best == nil {
		p.hold(&w)
		why := p.explain(&w)
		p.refused[kind] = why
		return Decision{RunnerID: r.ID, Why: why}
	}
	address := best.free
	best.add(r.Size, address)
	if _, failed := p.failing[pair{w.image, best.Name}]; failed {
		p.failing[pair{w.image, best.Name}] = tried
	}
	return Decision{RunnerID: r.ID, Host: best.Name, Address: address}
}

// best returns the host that is to carry the runner; nil if none can.
func (p *Plan) best(w *want) *Load {
	var best *Load
	var least float64
	all := filters()
next:
	for i := range p.loads {
		l := &p.loads[i]
		for _, f := range all {
			if f.refuses(w, l) {
				continue next
			}
		}
		left := l.left(w.Size)
		if best == nil || w.prefers(l, left, best, least) {
			best, least = l, left
		}
	}
	return best
}

// prefers reports whether host a is better than host b. First those that did not reject the demand, or longest ago. Then
// the best fit: where the least of the scarcer resource would be left, so that large holes stay for large runners. Equals
// are spread: the one with fewer microVMs, and then one that depends on the runner, so that each has its turn and the same
// question always has the same answer.
func (w *want) prefers(a *Load, leftA float64, b *Load, leftB float64) bool {
	if len(w.rejected) > 0 {
		if atA, atB := w.rejected[a.Name], w.rejected[b.Name]; !atA.Equal(atB) {
			return atA.Before(atB) // never is before everything
		}
	}
	switch {
	case leftA != leftB:
		return leftA < leftB
	case a.UsedSlots != b.UsedSlots:
		return a.UsedSlots < b.UsedSlots
	}
	if turnA, turnB := turn(w.ID, a.Name), turn(w.ID, b.Name); turnA != turnB {
		return turnA < turnB
	}
	return a.Name < b.Name
}

func turn(runner, host string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(runner)) // a hash takes everything
	_, _ = h.Write([]byte(host))
	return h.Sum64()
}
