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
	running map[string]context.CancelFunc
	wg      sync.WaitGroup
}

func (f *followers) start(ctx context.Context, watch func(ctx context.Context, id string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx, f.watch, f.running = ctx, watch, map[string]context.CancelFunc{}
}

// ensure starts to listen to a runner's guest unless somebody does. Before start, and after the end, it does nothing:
// the next Start takes the runner up.
func (f *followers) ensure(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil || f.ctx.Err() != nil || f.running[id] != nil {
		return
	}
	ctx, cancel := context.WithCancel(f.ctx)
	f.running[id] = cancel
	f.wg.Go(func() {
		defer cancel()
		f.watch(ctx, id)
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.running, id)
	})
}

// drop stops to listen to a guest that will not be heard of.
func (f *followers) drop(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cancel := f.running[id]; cancel != nil {
		cancel()
	}
}

func (f *followers) wait() { f.wg.Wait() }
