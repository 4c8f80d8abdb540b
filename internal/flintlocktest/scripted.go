package flintlocktest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// consoleFile is where a machine's console goes, in its folder.
const consoleFile = "console.log"

// Scripted is a VMM without machines: a function plays the guest. The zero value's guests do nothing until they are
// killed.
type Scripted struct {
	// Guest is the whole life of one guest. It ends when the function returns, as if the guest had switched itself
	// off, and has to return soon after ctx ends, when it is killed. It may call anything a guest could, such as
	// FireRunner's guest endpoint with the token that it finds in its metadata.
	Guest func(ctx context.Context, g *Guest)
	// StartErr, if set, is asked before each start; an error is one of the host.
	StartErr func(m Machine) error
}

// Guest is what a scripted guest has.
type Guest struct {
	Machine
	// Console takes what the guest prints; it is a file as for a real one.
	Console io.Writer
}

// Start implements VMM.
func (v Scripted) Start(ctx context.Context, m Machine) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if v.StartErr != nil {
		if err := v.StartErr(m); err != nil {
			return nil, err
		}
	}
	console, err := os.OpenFile(filepath.Join(m.Dir, consoleFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the console: %w", err)
	}
	alive, kill := context.WithCancel(context.Background())
	p := &scriptedProcess{kill: kill, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer console.Close()
		defer kill()
		if v.Guest == nil {
			<-alive.Done()
			return
		}
		v.Guest(alive, &Guest{Machine: m, Console: console})
	}()
	return p, nil
}

type scriptedProcess struct {
	kill context.CancelFunc
	done chan struct{}
}

func (p *scriptedProcess) Done() <-chan struct{} { return p.done }

func (p *scriptedProcess) Kill() {
	p.kill()
	<-p.done
}

// deadProcess is a machine whose VMM refused its configuration and ended at once.
func deadProcess() Process {
	done := make(chan struct{})
	close(done)
	return &scriptedProcess{kill: func() {}, done: done}
}

// boundedWriter passes on at most room bytes and drops the rest, so that no guest fills a disk. Writing never fails,
// for the machine would stand still.
type boundedWriter struct {
	mu   sync.Mutex
	to   io.Writer
	room int64
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	part := p[:min(int64(len(p)), w.room)]
	w.room -= int64(len(part))
	if len(part) > 0 {
		if _, err := w.to.Write(part); err != nil {
			w.room = 0
		}
	}
	return len(p), nil
}
