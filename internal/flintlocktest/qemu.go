package flintlocktest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// QEMU is a VMM whose machines are real: each boots what the spec asked for, in a qemu process of its own. The zero
// value emulates, which works on every x86-64 host with qemu-system-x86 and qemu-utils.
type QEMU struct {
	Binary  string // default qemu-system-x86_64
	Img     string // default qemu-img
	Accel   string // tcg (default) or kvm
	Console int64  // bytes of a console that are kept, default 4 MiB
	// Network connects an interface that is not the metadata network. Nil, or a Link without Serve, is a cable that
	// ends nowhere.
	Network func(m Machine, i Interface) (Link, error)
	Logger  *slog.Logger // default: none

	tsc tscClock
}

// Link is what an interface is connected to.
type Link struct {
	// MAC is the guest's address where the spec names none; empty = one made from the machine's uid.
	MAC string
	// TAP is a host's TAP device that qemu opens itself, in place of Serve, as on a real host: this process needs the
	// right to, and whoever made the device has put it on a bridge.
	TAP string
	// Serve carries the machine's frames, as QEMU's stream has them, until the wire's other end or ctx ends; it
	// closes the wire. Serve of FireRunner's user-mode network is such a function.
	Serve func(ctx context.Context, wire net.Conn) error
	// Close is called once the machine is gone; may be nil.
	Close func() error
}

// Start implements VMM.
func (v *QEMU) Start(ctx context.Context, m Machine) (Process, error) {
	for _, d := range m.Disks {
		if err := makeLayer(ctx, orDefault(v.Img, "qemu-img"), d); err != nil {
			return nil, err
		}
	}
	console, err := os.OpenFile(filepath.Join(m.Dir, consoleFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the console: %w", err)
	}
	p := &qemuProcess{log: v.logger().With("uid", m.UID), done: make(chan struct{}), console: console}
	wires, err := v.connect(m, p)
	if err == nil {
		err = p.start(v, m, wires)
	}
	if err != nil {
		p.disconnect()
		console.Close()
		return nil, err
	}
	return p, nil
}

func (v *QEMU) logger() *slog.Logger {
	if v.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return v.Logger
}

// wire is the machine's end of an interface, and the address that the guest has on it.
type wire struct {
	file *os.File // nil with tap
	tap  string
	mac  string
}

// closeWires closes what qemu has, or will not, inherit.
func closeWires(wires []wire) {
	for _, w := range wires {
		if w.file != nil {
			w.file.Close()
		}
	}
}

// connect makes the interfaces and starts what serves them.
func (v *QEMU) connect(m Machine, p *qemuProcess) (wires []wire, err error) {
	var ctx context.Context
	ctx, p.cut = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			closeWires(wires)
		}
	}()
	for n, i := range m.Interfaces {
		link := Link{MAC: macOf(m.UID, n)}
		switch {
		case i.Metadata:
			link.MAC = MetadataMAC
			link.Serve = func(ctx context.Context, wire net.Conn) error {
				return serveMetadata(ctx, wire, m.Metadata, p.log)
			}
		case v.Network != nil:
			given, err := v.Network(m, i)
			if err != nil {
				return wires, fmt.Errorf("connecting %s: %w", i.DeviceID, err)
			}
			given.MAC = orDefault(given.MAC, link.MAC)
			link = given
		}
		link.MAC = orDefault(i.GuestMAC, link.MAC)
		if link.Serve == nil {
			link.Serve = drain
		}
		if link.Close != nil {
			p.closers = append(p.closers, link.Close)
		}
		if link.TAP != "" {
			wires = append(wires, wire{tap: link.TAP, mac: link.MAC})
			continue
		}
		ours, theirs, err := wirePair()
		if err != nil {
			return wires, err
		}
		wires = append(wires, wire{file: theirs, mac: link.MAC})
		p.tasks.Go(func() {
			if err := link.Serve(ctx, ours); err != nil {
				p.log.Warn("a network of the machine ended", "interface", i.DeviceID, "error", err)
			}
		})
	}
	return wires, nil
}

// drain is a cable that ends nowhere.
func drain(ctx context.Context, wire net.Conn) error {
	defer wire.Close()
	defer context.AfterFunc(ctx, func() { wire.Close() })()
	buf := make([]byte, 64<<10)
	for {
		if _, err := wire.Read(buf); err != nil {
			return nil
		}
	}
}

// macOf is a locally administered address, another one for each machine and interface.
func macOf(uid string, n int) string {
	b := []byte(uid + "------")
	b = b[len(uid):]
	if len(uid) >= 5 {
		b = []byte(uid[len(uid)-5:])
	}
	return fmt.Sprintf("52:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], (int(b[4])<<2+n)&0xff)
}

// wirePair returns two connected sockets: ours, and the one that qemu inherits.
func wirePair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a wire: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "wire")
	conn, err := net.FileConn(ours) // a copy
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making a wire: %w", err)
	}
	return conn, theirs, nil
}
