package control

import (
	"context"
	"sync"
)

// followers keeps at most one goroutine per runner that listens to its guest.
type followers struct {
	mu      sync.Mutex
	ctx     context.Context
	watch   func(ctx context.Context, id string)
	running map[string]bool
	wg      sync.WaitGroup
}

func (f *followers) start(ctx context.Context, watch func(ctx context.Context, id string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx, f.watch, f.running = ctx, watch, map[string]bool{}
}

// ensure starts to listen to a runner's guest unless somebody does. Before start, and after the end, it does nothing:
// the next Start takes the runner up.
func (f *followers) ensure(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil || f.ctx.Err() != nil || f.running[id] {
		return
	}
	f.running[id] = true
	f.wg.Go(func() {
		f.watch(f.ctx, id)
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.running, id)
	})
}

func (f *followers) wait() { f.wg.Wait() }
