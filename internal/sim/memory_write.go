package sim

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
)

// memoryTx is one transaction of a Memory.
type memoryTx struct{ memoryReader }

var _ firerunner.Tx = (*memoryTx)(nil)

// CreateRunner implements firerunner.Tx.
func (t *memoryTx) CreateRunner(ctx context.Context, r firerunner.Runner) error {
	if err := check(ctx); err != nil {
		return err
	}
	if _, taken := find(t.memoryReader, runnersOf, r.ID); taken {
		return firerunner.Errorf(firerunner.Conflict, "create runner %q: it exists", r.ID)
	}
	if err := t.addressFree(r); err != nil {
		return err
	}
	r = keptRunner(r)
	t.over.runners[r.ID] = &r
	return nil
}

// SaveRunner implements firerunner.Tx.
func (t *memoryTx) SaveRunner(ctx context.Context, r *firerunner.Runner) error {
	known, err := t.Runner(ctx, r.ID)
	if err != nil {
		return err
	}
	switch {
	case known.Version != r.Version:
		return firerunner.Errorf(firerunner.Conflict, "save runner %q: version %d, not %d", r.ID, known.Version, r.Version)
	case r.State < known.State:
		return firerunner.Errorf(firerunner.Conflict, "save runner %q: its state would fall", r.ID)
	case known.Outcome != "" && r.Outcome != known.Outcome:
		return firerunner.Errorf(firerunner.Conflict, "save runner %q: its outcome would change", r.ID)
	case known.Desired == firerunner.Unwanted && r.Desired != firerunner.Unwanted:
		return firerunner.Errorf(firerunner.Conflict, "save runner %q: it would be wanted again", r.ID)
	}
	if err := t.addressFree(*r); err != nil {
		return err
	}
	r.Version++
	row := keptRunner(*r)
	t.over.runners[r.ID] = &row
	return nil
}

func (t *memoryTx) addressFree(r firerunner.Runner) error {
	if !r.Live() || !r.Address.IsValid() {
		return nil
	}
	holders := collect(t.memoryReader, runnersOf, func(o *firerunner.Runner) bool {
		return o.ID != r.ID && o.Live() && o.Host == r.Host && o.Address == r.Address
	})
	if len(holders) > 0 {
		return firerunner.Errorf(firerunner.Conflict, "save runner %q: address %s is that of %s", r.ID, r.Address, holders[0].ID)
	}
	return nil
}

// SaveJob implements firerunner.Tx.
func (t *memoryTx) SaveJob(ctx context.Context, seen firerunner.Job) (firerunner.Job, error) {
	if err := check(ctx); err != nil {
		return firerunner.Job{}, err
	}
	if known, ok := find(t.memoryReader, jobsOf, seen.ID); ok {
		seen = known.Merge(seen)
	}
	seen = keptJob(seen)
	t.over.jobs[seen.ID] = &seen
	return seen, nil
}

// SaveProject implements firerunner.Tx.
func (t *memoryTx) SaveProject(ctx context.Context, p firerunner.Project) error {
	if err := check(ctx); err != nil {
		return err
	}
	p.SeenAt, p.Path = kept(p.SeenAt), text(p.Path)
	if known, ok := find(t.memoryReader, projectsOf, p.ID); ok && known.SeenAt.After(p.SeenAt) {
		p = known
	}
	t.over.projects[p.ID] = &p
	return nil
}

// SaveHost implements firerunner.Tx.
func (t *memoryTx) SaveHost(ctx context.Context, h firerunner.Host) error {
	if err := check(ctx); err != nil {
		return err
	}
	delete(t.over.removed, h.Name)
	h = keptHost(h)
	t.over.hosts[h.Name] = &h
	return nil
}

// RemoveHost implements firerunner.Tx.
func (t *memoryTx) RemoveHost(ctx context.Context, name string) error {
	if err := check(ctx); err != nil {
		return err
	}
	if _, there := find(t.memoryReader, hostsOf, name); !there || t.over.removed[name] {
		return firerunner.Errorf(firerunner.NotFound, "remove host %q: there is no such host", name)
	}
	on := collect(t.memoryReader, runnersOf, func(r *firerunner.Runner) bool { return r.Live() && r.Host == name })
	if len(on) > 0 {
		return firerunner.Errorf(firerunner.Conflict, "remove host %q: %d live runners are on it", name, len(on))
	}
	delete(t.over.hosts, name)
	t.over.removed[name] = true
	return nil
}

// AddEvent implements firerunner.Tx.
func (t *memoryTx) AddEvent(ctx context.Context, e firerunner.Event) error {
	if err := check(ctx); err != nil {
		return err
	}
	t.m.mu.RLock()
	before := len(t.m.rows.events)
	t.m.mu.RUnlock()
	e.ID, e.At, e.Message = int64(before+len(t.over.events)+1), kept(e.At), text(e.Message)
	t.over.events = append(t.over.events, e)
	return nil
}

// TakeDelivery implements firerunner.Tx.
func (t *memoryTx) TakeDelivery(ctx context.Context, key string, _ time.Time) (fresh bool, err error) {
	if err := check(ctx); err != nil {
		return false, err
	}
	t.m.mu.RLock()
	taken := t.m.rows.deliveries[key]
	t.m.mu.RUnlock()
	if taken || t.over.deliveries[key] {
		return false, nil
	}
	t.over.deliveries[key] = true
	return true, nil
}

// Enqueue implements firerunner.Tx.
func (t *memoryTx) Enqueue(ctx context.Context, s firerunner.Step) error {
	if err := check(ctx); err != nil {
		return err
	}
	t.over.steps = append(t.over.steps, s)
	return nil
}
