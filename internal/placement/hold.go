package placement

// hold keeps one host free for a runner that has waited for long, so that smaller ones behind it cannot starve it: what
// ends on that host is not replaced until the runner fits. Where another runner that could use the same hosts holds one
// already, it is not yet its turn: one host at a time is what fairness may cost.
//
// Nothing is remembered between rounds. The host that lacks least is chosen; what it lacks only becomes less while it is
// held, and another is chosen only where even less is lacking: so the wait ends.
func (p *Plan) hold(w *want) {
	if p.round.HoldAfter <= 0 || p.round.Now.Sub(w.MovedAt) < p.round.HoldAfter {
		return
	}
	var best *Load
	var most float64
	for i := range p.loads {
		l := &p.loads[i]
		if everRefuses(w, l) {
			continue
		}
		if l.kept != nil {
			return
		}
		left := l.left(w.Size)
		if l.UsedSlots >= l.Slots || !l.Addresses.Empty() && !l.free.IsValid() {
			left = min(left, -1/float64(max(l.Slots, 1)))
		}
		if best == nil || left > most || left == most && l.Name < best.Name {
			best, most = l, left
		}
	}
	if best != nil {
		best.kept = w
	}
}

// everRefuses reports whether the host would refuse the runner even when empty.
func everRefuses(w *want, l *Load) bool {
	for _, f := range filters() {
		if f.lasting && f.refuses(w, l) {
			return true
		}
	}
	return l.Slots <= 0
}
