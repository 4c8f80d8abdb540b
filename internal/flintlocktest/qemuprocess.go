package flintlocktest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// qemuProcess is a running qemu and what serves it.
type qemuProcess struct {
	log     *slog.Logger
	console *os.File
	cut     context.CancelFunc
	closers []func() error
	tasks   sync.WaitGroup
	process *os.Process
	done    chan struct{}
}

// start starts qemu. It ends when this process does, however that comes about.
func (p *qemuProcess) start(v *QEMU, m Machine, wires []wire) error {
	tscKHz, err := v.tsc.rate()
	if err != nil && v.Accel != "kvm" {
		closeWires(wires)
		return err
	}
	limit := v.Console
	if limit == 0 {
		limit = 4 << 20
	}
	cmd := exec.Command(orDefault(v.Binary, "qemu-system-x86_64"), qemuArguments(m, wires, v.Accel, tscKHz)...)
	cmd.Dir, cmd.Env = m.Dir, commandEnvironment(m.Dir)
	var complaints bytes.Buffer
	cmd.Stdout = &boundedWriter{to: p.console, room: limit}
	cmd.Stderr = &boundedWriter{to: &complaints, room: 4 << 10}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	for _, w := range wires {
		if w.file != nil {
			cmd.ExtraFiles = append(cmd.ExtraFiles, w.file) // from descriptor firstWire on
		}
	}
	started := make(chan error, 1)
	go func() {
		// The kernel sends the signal when the *thread* that started qemu ends (prctl(2), PR_SET_PDEATHSIG), so this
		// goroutine keeps its thread for itself until qemu is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		closeWires(wires)
		p.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		p.log.Debug("qemu ended", "error", err, "stderr", complaints.String())
		p.disconnect()
		p.console.Close()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting qemu: %w", err)
	}
	return nil
}

// disconnect ends what serves the interfaces and waits for it.
func (p *qemuProcess) disconnect() {
	p.cut()
	p.tasks.Wait()
	for _, close := range p.closers {
		if err := close(); err != nil {
			p.log.Warn("a network of the machine did not close", "error", err)
		}
	}
}

func (p *qemuProcess) Done() <-chan struct{} { return p.done }

func (p *qemuProcess) Kill() {
	_ = p.process.Kill() // an error is that it has ended
	<-p.done
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
