// Package placement decides which host carries which runner, or says why none does. It is pure: runners and hosts
// in, decisions with reasons out. Nothing is reserved here; the caller writes the decision and the reservation in
// one transaction.
package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/firerunner/firerunner"
)

// Load is a host and what is reserved on it now.
type Load struct {
	firerunner.Host
	UsedVCPUs     int
	UsedMemoryMiB int
	UsedSlots     int
}

// NewLoads counts what live runners reserve on each host. A runner on a host that is not known any more counts
// nowhere.
func NewLoads(hosts []firerunner.Host, runners []firerunner.Runner) []Load {
	loads := make([]Load, len(hosts))
	byName := map[string]*Load{}
	for i, h := range hosts {
		loads[i] = Load{Host: h}
		byName[h.Name] = &loads[i]
	}
	for _, r := range runners {
		if l := byName[r.Host]; l != nil && r.Reserves() {
			l.add(r.Size)
		}
	}
	return loads
}

func (l *Load) add(s firerunner.Size) {
	l.UsedVCPUs += s.VCPUs
	l.UsedMemoryMiB += s.MemoryMiB
	l.UsedSlots++
}

// Decision is the answer for one runner: a host, or the reason why there is none.
type Decision struct {
	RunnerID string
	Host     string // empty: no host
	Why      string // in words; only if there is no host
}

// Decide places runners in their order, the longest waiting first. A decision counts for those after it, so no host
// is ever over its capacity. A runner that does not fit does not hold up a smaller one behind it.
func Decide(runners []firerunner.Runner, loads []Load) []Decision {
	loads = slices.Clone(loads)
	decisions := make([]Decision, 0, len(runners))
	for _, r := range runners {
		refusals := map[string]int{}
		var best *Load
		for i := range loads {
			l := &loads[i]
			if why := refuse(r, *l); why != "" {
				refusals[why]++
				continue
			}
			if best == nil || fit(r, *l) < fit(r, *best) {
				best = l
			}
		}
		if best == nil {
			decisions = append(decisions, Decision{RunnerID: r.ID, Why: explain(refusals, len(loads))})
			continue
		}
		best.add(r.Size)
		decisions = append(decisions, Decision{RunnerID: r.ID, Host: best.Name})
	}
	return decisions
}

// fit is how much of the scarcer resource a host would have left, as a share: the smaller, the better the fit, so
// that large holes stay for large runners.
func fit(r firerunner.Runner, l Load) float64 {
	cpu := float64(l.VCPUs-l.UsedVCPUs-r.Size.VCPUs) / float64(max(l.VCPUs, 1))
	mem := float64(l.MemoryMiB-l.UsedMemoryMiB-r.Size.MemoryMiB) / float64(max(l.MemoryMiB, 1))
	return min(cpu, mem)
}

// explain turns counted refusals into words such as "2 hosts draining; 1 host lacks 8192 MiB".
func explain(refusals map[string]int, hosts int) string {
	if hosts == 0 {
		return "there is no host"
	}
	reasons := make([]string, 0, len(refusals))
	for why := range refusals {
		reasons = append(reasons, why)
	}
	slices.SortFunc(reasons, func(a, b string) int {
		return cmp.Or(cmp.Compare(refusals[b], refusals[a]), strings.Compare(a, b))
	})
	for i, why := range reasons {
		word := "hosts"
		if refusals[why] == 1 {
			word = "host"
		}
		reasons[i] = fmt.Sprintf("%d %s: %s", refusals[why], word, why)
	}
	return strings.Join(reasons, "; ")
}
