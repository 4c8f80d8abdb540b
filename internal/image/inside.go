package image

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// insideDir is where the sandbox finds what it is to run; it does not become part of the system.
const (
	insideDir = ".firerunner"
	oldRoot   = ".firerunner-old-root"
)

// The two ways in which the sandbox is given the directory for its tree: as a detached mount in descriptor 3, because
// its path may lead through directories that the sandbox's user may not enter; or, by a parent who may not make one
// but has the same user, as the directory that it starts in.
const (
	treeByMount = "mount"
	treeHere    = "here"
	treeFD      = 3
)

// Inside is the program of the sandbox: the first process in namespaces of its own. It reads a tree from its standard
// input, makes it its root, runs the scripts that it is given by name (after how it is given its directory), and writes to its standard output what the tree
// is then. The programs' output goes to standard error. It returns the exit status.
//
// Nothing outside the tree can be reached when the first foreign program starts, but for the network if it was left.
func Inside(args []string) int {
	if os.Getpid() != 1 || len(args) == 0 {
		fmt.Fprintln(os.Stderr, "firerunner: this is only for the sandbox of an image build")
		return 2
	}
	if err := inside(args[0], args[1:]); err != nil {
		var ended *exec.ExitError
		if errors.As(err, &ended) && ended.Exited() {
			return ended.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "firerunner: sandbox:", err)
		return 125
	}
	return 0
}

func inside(way string, scripts []string) error {
	unix.Umask(0)
	if err := enter(way); err != nil {
		return err
	}
	if err := unpackTree("/", os.Stdin); err != nil {
		return errors.Join(err, leave())
	}
	err := furnish()
	unix.Umask(0o022)
	for _, script := range scripts {
		if err == nil {
			err = runInside(script)
		}
	}
	if err = errors.Join(err, leave()); err == nil {
		err = packTree(os.Stdout, "/", func(name string) bool { return name == insideDir })
	}
	return errors.Join(err, removeWithin("/"))
}

// leave ends all other processes and takes away what was mounted.
func leave() error {
	_ = unix.Kill(-1, unix.SIGKILL) // everybody else in this namespace
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			break // nobody is left
		}
	}
	for _, mounted := range []string{"/dev", "/proc", "/" + oldRoot} {
		if err := unix.Unmount(mounted, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", mounted, err)
		}
	}
	return nil
}

// enter makes the directory the root, with the old root below it.
func enter(way string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	here, err := os.Getwd() // before something is mounted over it
	if err != nil && way == treeHere {
		return err
	}
	if way == treeHere {
		if err := unix.Mount(here, here, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount the tree: %w", err)
		}
	} else {
		here = "/tmp"
		if err := unix.MoveMount(treeFD, "", unix.AT_FDCWD, here, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount the tree: %w", err)
		}
		if err := unix.Close(treeFD); err != nil {
			return err
		}
	}
	if err := os.Chdir(here); err != nil {
		return err
	}
	if err := os.Mkdir(oldRoot, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", oldRoot); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return os.Chdir("/")
}

// devices are bound from the machine's: a user namespace can make none.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// furnish mounts what programs expect, and takes the old root away.
func furnish() error {
	const old = "/" + oldRoot
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=256m"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, name := range devices {
		at := "/dev/" + name
		err := os.WriteFile(at, nil, 0o666)
		if err == nil {
			err = unix.Mount(old+at, at, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	for _, dir := range []string{"/dev/shm", "/dev/pts"} {
		if err := os.Mkdir(dir, 0o1777); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return err
		}
	}
	if err := unix.Unmount(old, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := os.Remove(old); err != nil {
		return err
	}
	_ = loopbackUp() // where the namespace has one of its own, scripts may use it
	return nil
}

// loopbackUp switches the loopback interface on.
func loopbackUp() error {
	if lo, err := net.InterfaceByName("lo"); err != nil || lo.Flags&net.FlagUp != 0 {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(request)))
	if errno != 0 {
		return errno
	}
	return nil
}

// runInside runs one script to its end. What has no interpreter of its own is the shell's.
func runInside(script string) error {
	path := filepath.Join("/", insideDir, filepath.Base(script))
	head := make([]byte, 2)
	f, err := os.Open(path)
	if err == nil {
		_, err = io.ReadFull(f, head)
		_ = f.Close()
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	args := []string{path}
	if string(head) != "#!" {
		args = []string{"/bin/sh", path}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = "/", os.Environ()
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// removeWithin removes what is in a directory: its owner outside may not be able to.
func removeWithin(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
