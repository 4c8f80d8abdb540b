package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/reportlog"
)

// holder is one microVM as its shim holds it.
type holder struct {
	shim    Shim
	spec    shimSpec
	log     *slog.Logger
	reports *reportlog.Log
	machine *machine
	console *os.File
	sink    *os.File
	server  *server
	network Network
	outside *outside // for a microVM without an agent

	orders  chan firerunner.GuestOrder
	began   chan struct{} // closed once qemu runs
	ended   chan struct{} // closed once ReportExited is in the log
	deaf    chan struct{} // closed once nobody takes orders any more
	destroy chan struct{} // closed on the first call to destroy
	once    sync.Once
}

// begin makes everything, in an order in which a death at any point leaves only files: qemu comes last, and dies
// with us.
func (h *holder) begin(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			h.closeFiles()
		}
	}()
	dir := h.spec.Dir
	if err := os.Chdir(dir); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "shim: entering the microVM's folder as uid %d: %w", os.Getuid(), err).
			WithHint("the folders above it must be passable: chmod o+x")
	}
	if err := readableImage(h.spec.Image); err != nil {
		return err
	}
	if h.console, err = create(dir, consoleFile); err != nil {
		return err
	}
	if h.sink, err = create(dir, reportsFile); err != nil {
		return err
	}
	h.reports = reportlog.New(reportlog.Config{MaxBytes: h.spec.ReportBytes, MaxReports: h.spec.ReportCount, Sink: h.sink})
	if h.server, err = serve(h, filepath.Join(dir, socketFile)); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "shim: %w", err)
	}
	if err := makeDisk(ctx, h.spec); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "shim: %w", err)
	}
	mac := ""
	if h.shim.Network != nil {
		if h.spec.Start.Network == (firerunner.GuestNetwork{}) {
			h.spec.Start.Network = h.shim.GuestNetwork
		}
		mac = h.spec.Start.Network.MAC
		if _, err := net.ParseMAC(mac); err != nil {
			return firerunner.Errorf(firerunner.Internal, "shim: the guest's network: %w", err)
		}
		network, err := h.shim.Network(h.spec.Network)
		if err != nil {
			return err
		}
		h.network = network
	}
	if h.spec.Provision == firerunner.ProvisionSSH {
		if h.outside, err = newOutside(h.shim, h.spec, h.network); err != nil {
			return err
		}
	}
	// Whoever finds this file knows that a guest may have run: the ID is spent. So it comes before qemu.
	marker, err := create(dir, startedFile)
	if err != nil {
		return err
	}
	_ = marker.Close()
	if h.machine, err = startMachine(h.spec, mac, h.console); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "shim: %w", err)
	}
	close(h.began)
	h.log.Info("qemu started", "pid", h.machine.process.Pid, "accel", h.spec.Accel, "size", h.spec.Size.String(), "deadline", h.spec.Deadline)
	return nil
}

func create(dir, file string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "shim: %w", err)
	}
	return f, nil
}

// hold serves the guest until qemu ends, then its reports until nobody needs them.
func (h *holder) hold(ctx context.Context) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var rooms sync.WaitGroup
	rooms.Go(func() {
		defer close(h.deaf)
		if h.outside != nil {
			h.provision(serving)
			return
		}
		err := h.shim.Guest(serving, h.machine.guest, h.spec.Start, h.reports.Guest, h.orders)
		h.lost(serving, "guest channel", firerunner.ReportError, err)
	})
	if h.machine.network != nil {
		rooms.Go(func() {
			err := h.network.Serve(serving, h.machine.network)
			h.lost(serving, "network", firerunner.ReportNotice, err)
		})
	}

	rooms.Go(h.machine.watchDisk)

	deadline := time.NewTimer(time.Until(h.spec.Deadline))
	defer deadline.Stop()
	end := ending{LimitMiB: h.spec.MemoryMiB, Dir: h.spec.Dir}
	select {
	case <-h.machine.done:
	case <-deadline.C:
		end.Cause = causeDeadline
		h.machine.end(h.spec.StopGrace)
	case <-h.machine.full:
		end.Cause = causeDiskFull
		h.machine.end(0)
	case <-h.destroy:
		end.Cause = causeDestroyed
		h.machine.end(0) // its disk is thrown away: nothing to flush
	case <-ctx.Done():
		end.Cause = causeShutdown
		h.machine.end(h.spec.StopGrace)
	}
	end.State, end.Stderr = h.machine.state, h.machine.stderr.last(stderrLimit)
	end.Console, end.OOMKills = h.machine.console.last(consoleTail), oomKills(h.spec.OOMFile)

	if end.Cause == causeDestroyed {
		stop() // nobody waits for the guest's last words
	}
	// The guest's last words may still be in the channel. Closing it from the far end has ended it, so the rooms
	// read to its end and return by themselves; if not, they are told to.
	h.drain(&rooms, stop)
	_ = os.Remove(filepath.Join(h.spec.Dir, overlayFile)) // nobody reads it again, and the last report may need its room
	last := end.report()
	h.reports.Driver(last)
	close(h.ended)
	h.log.Info("qemu ended", "message", last.Message, "status", last.ExitCode)

	if end.Cause == "" || end.Cause == causeDiskFull {
		linger := time.NewTimer(min(h.spec.Linger, time.Until(h.spec.Deadline)))
		defer linger.Stop()
		select {
		case <-h.destroy:
		case <-linger.C:
		case <-ctx.Done():
		}
	}
	h.server.close()
	h.closeFiles()
	return nil
}

// roomGrace is how long the guest channel and the network may take to end after qemu did.
const roomGrace = 2 * time.Second

// drain waits for the rooms, and tells them to end if they do not by themselves.
func (h *holder) drain(rooms *sync.WaitGroup, stop context.CancelFunc) {
	defer h.machine.closeConns()
	defer stop()
	left := make(chan struct{})
	go func() { rooms.Wait(); close(left) }()
	for _, next := range []func(){stop, h.machine.closeConns} {
		timer := time.NewTimer(roomGrace)
		select {
		case <-left:
			timer.Stop()
			return
		case <-timer.C:
			next()
		}
	}
	// Nothing is left that could wake them. The process ends soon, and they with it.
	timer := time.NewTimer(roomGrace)
	defer timer.Stop()
	select {
	case <-left:
	case <-timer.C:
		h.log.Error("guest channel or network did not end")
	}
}

// lost writes down that the guest's channel or network ended while qemu runs. A channel that ended because qemu
// did is the normal end; its error says nothing.
func (h *holder) lost(ctx context.Context, what string, kind firerunner.ReportKind, err error) {
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	select {
	case <-h.machine.done:
		return
	case <-ctx.Done():
		return
	case <-grace.C:
	}
	message := what + " ended"
	if err != nil && !errors.Is(err, io.EOF) {
		message += ": " + err.Error()
	}
	h.log.Warn("a part of a running microVM ended", "part", what, "error", err)
	h.reports.Driver(firerunner.GuestReport{Kind: kind, Message: message})
}

// order hands an order to the guest channel.
func (h *holder) order(ctx context.Context, order firerunner.GuestOrder) error {
	if order != firerunner.OrderFinish && order != firerunner.OrderStop {
		return firerunner.Errorf(firerunner.Invalid, "order %.20q is not one of finish, stop", string(order))
	}
	deaf := firerunner.Errorf(firerunner.Unavailable, "the guest of microVM %s does not listen", h.spec.ID)
	if hello, exited := h.reports.Said(); !hello || exited {
		return deaf
	}
	select {
	case h.orders <- order:
		return nil
	case <-h.deaf:
		return deaf
	case <-ctx.Done():
		return deaf
	}
}

// end destroys the microVM and returns once qemu is gone.
func (h *holder) end(ctx context.Context) error {
	h.once.Do(func() { close(h.destroy) })
	select {
	case <-h.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *holder) closeFiles() {
	if h.network != nil {
		_ = h.network.Close()
	}
	if h.server != nil {
		h.server.close()
	}
	for _, f := range []*os.File{h.console, h.sink} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// readAnswer reads a shim's one line.
func readAnswer(from io.Reader) (answer, error) {
	var a answer
	line, err := bufio.NewReader(io.LimitReader(from, 64<<10)).ReadBytes('\n')
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(line, &a)
}
