package flintlock

import (
	"context"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// Pauses while a host deletes. Most of the time it takes less than a third of a second.
const (
	firstPause  = 20 * time.Millisecond
	longPause   = time.Second
	removeAgain = 5 * time.Second // until a host that has not deleted what it was told to is told again
)

// Destroy removes a microVM from its host and then from the ledger. See firerunner.Driver. A host that cannot be asked
// gives Unavailable, and the record stays. What the ledger does not know is looked for on every host that answers.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	if !nameForm.MatchString(id) {
		return nil // none of ours has such a name
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.DestroyTimeout)
	defer cancel()
	unlock, err := d.vms.lock(ctx, id)
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "flintlock: destroying microVM %s: %w", id, err)
	}
	defer unlock()
	vm, ok := d.vms.get(id)
	if !ok {
		return d.destroyOrphan(ctx, id)
	}
	// Durable before anything is deleted: whatever happens now, its end is known and will be brought about.
	if err := d.finish(ctx, vm, "destroyed"); err != nil {
		return err
	}
	row := vm.know()
	host, err := d.host(row.Host)
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "flintlock: destroying microVM %s: %w", id, err).WithHint("%s", firerunner.HintOf(err))
	}
	if err := d.purge(ctx, host, id, row.Ref); err != nil {
		return err
	}
	if err := d.cfg.Ledger.ForgetVM(ctx, id); err != nil {
		return firerunner.Errorf(firerunner.CodeOf(err), "flintlock: forgetting microVM %s: %w", id, err)
	}
	d.vms.drop(vm)
	return nil
}

// destroyOrphan removes what has our namespace and no record. A host that does not answer is an error only if the
// microVM was last seen there: List shows it again when the host is back.
func (d *Driver) destroyOrphan(ctx context.Context, id string) error {
	d.mu.Lock()
	last := d.orphans[id]
	d.mu.Unlock()
	var mu sync.Mutex
	var failed error
	d.everyHost(func(h *daemon) {
		err := d.purge(ctx, h, id, "")
		if err == nil || firerunner.CodeOf(err) == firerunner.Unavailable && h.Name != last && !isTimeout(ctx) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		failed = err
	})
	if failed == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.orphans, id)
	}
	return failed
}

func isTimeout(ctx context.Context) bool { return ctx.Err() != nil }

// purge deletes everything of one name on a host, and returns once the host no longer has any of it.
func (d *Driver) purge(ctx context.Context, host *daemon, id, ref string) error {
	doing := "destroying microVM " + id
	told := map[string]time.Time{}
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		left, err := d.left(ctx, host, id, ref)
		if err != nil {
			return host.fault(err, doing)
		}
		if len(left) == 0 {
			return nil
		}
		for _, uid := range left {
			if time.Since(told[uid]) < removeAgain {
				continue
			}
			told[uid] = time.Now()
			if err := host.remove(ctx, uid); err != nil {
				return host.fault(err, doing)
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return firerunner.Errorf(firerunner.Unavailable, "host %s (%s): %s: it was told to delete %s, and still has it: %w",
				host.Name, host.Endpoint, doing, left[0], ctx.Err()).
				WithHint("it is told again; if that goes on, see the log of flintlockd on %s", host.Name)
		}
	}
}

// left returns the uids of a name that the host still has.
func (d *Driver) left(ctx context.Context, host *daemon, id, ref string) (uids []string, err error) {
	there, err := host.list(ctx, d.cfg.Namespace, id)
	if err != nil && (ref == "" || !answered(err)) {
		return nil, err // a host whose lists fail can still be asked for a uid
	}
	for _, vm := range there {
		uids = append(uids, vm.GetSpec().GetUid())
	}
	if len(uids) == 0 && ref != "" {
		_, ok, err := host.get(ctx, ref)
		if err != nil {
			return nil, err
		}
		if ok {
			uids = append(uids, ref)
		}
	}
	return uids, nil
}
