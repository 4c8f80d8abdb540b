package qemu

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// stderrLimit is how much of qemu's own complaints is kept.
const stderrLimit = 4 << 10

// machine is a running qemu and the host's ends of what the guest has.
type machine struct {
	guest   net.Conn // the virtio-serial port
	network net.Conn // Ethernet frames, each after its length in 4 bytes; nil = no network
	monitor net.Conn // qemu's own, see watchDisk
	console *console
	stderr  *console // the same bounds, another stream

	process *os.Process
	done    chan struct{} // closed once qemu has ended and all of its output was read
	full    chan struct{} // closed once the host had no room for what the guest wrote
	state   *os.ProcessState
}

// makeDisk makes the microVM's overlay: what the guest writes goes there, what it has not written is read from the
// image. Its virtual size is the root file system's plus DiskMiB, and is the most that the guest can ever make
// the host hold.
func makeDisk(ctx context.Context, spec shimSpec) error {
	if spec.Image.RootFS == "" {
		return nil
	}
	base, err := os.Stat(spec.Image.RootFS)
	if err != nil {
		return err
	}
	size := base.Size() + int64(spec.Size.DiskMiB)<<20
	// The format of the base is given: were it guessed, a raw disk could pass for a qcow2 that names any file.
	cmd := exec.CommandContext(ctx, spec.QEMUImg, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", spec.Image.RootFS,
		overlayFile, strconv.FormatInt(size, 10))
	cmd.Dir, cmd.Env = spec.Dir, environment(spec.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making the disk: %w: %.500s", err, out)
	}
	return nil
}

// startMachine starts qemu. It ends when this process does, however that comes about.
func startMachine(spec shimSpec, mac string, consoleFile io.Writer) (*machine, error) {
	m := &machine{
		console: newConsole(consoleFile, spec.ConsoleBytes),
		stderr:  newConsole(io.Discard, stderrLimit),
		done:    make(chan struct{}),
		full:    make(chan struct{}),
	}
	guest, inherited, err := pair("guest")
	if err != nil {
		return nil, err
	}
	m.guest = guest
	files := []*os.File{inherited}
	if mac != "" {
		network, inherited, err := pair("network")
		if err != nil {
			_ = guest.Close()
			_ = files[0].Close()
			return nil, err
		}
		m.network = network
		files = append(files, inherited)
	}
	if m.monitor, inherited, err = pair("monitor"); err != nil {
		m.closeConns()
		for _, f := range files {
			_ = f.Close()
		}
		return nil, err
	}
	files = append(files, inherited)
	cmd := exec.Command(spec.QEMU, arguments(spec, mac)...)
	cmd.Dir, cmd.Env = spec.Dir, environment(spec.Dir)
	cmd.Stdout, cmd.Stderr = m.console, m.stderr
	cmd.ExtraFiles = files // from descriptor 3 on: guestFD, networkFD, monitorFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started := make(chan error, 1)
	go func() {
		// The kernel sends the signal when the *thread* that started qemu ends (prctl(2), PR_SET_PDEATHSIG), so this
		// goroutine keeps its thread for itself until qemu is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(m.done)
		err := cmd.Start()
		for _, f := range files {
			_ = f.Close()
		}
		m.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // what it says is in ProcessState
		m.state = cmd.ProcessState
	}()
	if err := <-started; err != nil {
		m.closeConns()
		return nil, fmt.Errorf("starting qemu: %w", err)
	}
	// Should memory run out for the whole group, the guest is to go, and the shim to tell. Best effort.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", m.process.Pid), []byte("800"), 0)
	return m, nil
}

// end asks qemu to end, and ends it after the grace. It returns once qemu is gone.
func (m *machine) end(grace time.Duration) {
	if grace > 0 {
		_ = m.process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-m.done:
			return
		case <-timer.C:
		}
	}
	_ = m.process.Kill()
	<-m.done
}

func (m *machine) closeConns() {
	for _, c := range []net.Conn{m.guest, m.network, m.monitor} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// pair returns two connected sockets: ours, and the one that qemu inherits.
func pair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making the %s socket: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	conn, err := net.FileConn(ours) // a copy
	_ = ours.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("making the %s socket: %w", name, err)
	}
	return conn, theirs, nil
}

// environment is all that a shim or a qemu is given.
func environment(dir string) []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "HOME=" + dir, "TMPDIR=" + dir}
}

// readableImage says which file of an image this process cannot read, and the remedy.
func readableImage(image firerunner.Image) error {
	for _, path := range []string{image.Kernel, image.Initrd, image.RootFS} {
		if path == "" {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			code := firerunner.Invalid
			if os.IsPermission(err) {
				code = firerunner.Unavailable
			}
			return firerunner.Errorf(code, "reading the image as uid %d: %w", os.Getuid(), err).
				WithHint("the file must exist and be readable by all (chmod o+r), and the folders above it passable (chmod o+x)")
		}
		_ = f.Close()
	}
	return nil
}
