package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// folder is <StateDir>/vms. It belongs to the daemon. For each microVM it has
//
//	<id>/        the microVM's own: owned by its uid, 0700
//	<id>.json    the daemon's record of it, out of the microVM's reach
//	<id>.lock    held by whoever makes or destroys it
type folder string

// Files in a microVM's own folder.
const (
	socketFile  = "shim.sock"
	overlayFile = "disk.qcow2"
	consoleFile = "console.log"
	reportsFile = "reports.jsonl"
	shimLogFile = "shim.log"
	startedFile = "started" // qemu was started; a microVM without it never ran
)

func (f folder) dir(id string) string    { return filepath.Join(string(f), id) }
func (f folder) record(id string) string { return filepath.Join(string(f), id+".json") }
func (f folder) lock(id string) string   { return filepath.Join(string(f), id+".lock") }
func (f folder) socket(id string) string { return filepath.Join(string(f), id, socketFile) }

// maxSocketPath is the size of sun_path less its closing zero: unix(7).
const maxSocketPath = 107

// checkSockets refuses a state folder in which a runner's 16 letters make a socket path too long for the kernel.
func (f folder) checkSockets() error { return f.checkSocket(strings.Repeat("x", 16)) }

func (f folder) checkSocket(id string) error {
	if path := f.socket(id); len(path) > maxSocketPath {
		return firerunner.Errorf(firerunner.Invalid, "qemu: the socket path %s has %d bytes; %d are possible",
			path, len(path), maxSocketPath).WithHint("choose a shorter state folder")
	}
	return nil
}

// phase is how far the daemon is with a microVM.
type phase string

const (
	phaseMaking     phase = "making"
	phaseMade       phase = "made"
	phaseDestroying phase = "destroying"
)

// record is what the daemon remembers of a microVM. It holds no secret.
type record struct {
	ID        string
	Host      string
	Phase     phase
	UID       int    // whose the folder and the processes are
	PID       int    // of the shim; 0 = not started
	PIDStart  uint64 // the shim's start time, as /proc says it: pids are used again
	CreatedAt time.Time
	Deadline  time.Time
}

func (r record) microVM(alive bool) firerunner.MicroVM {
	return firerunner.MicroVM{ID: r.ID, Host: r.Host, Alive: alive, CreatedAt: r.CreatedAt, Deadline: r.Deadline}
}

// readRecord returns ok = false where there is none, or one that a crash of the host left in pieces.
func (f folder) readRecord(id string) (record, bool) {
	b, err := os.ReadFile(f.record(id))
	if err != nil {
		return record{ID: id}, false
	}
	var r record
	if json.Unmarshal(b, &r) != nil || r.ID != id {
		return record{ID: id}, false
	}
	return r, true
}

// writeRecord replaces the record in one step: a crash leaves the old one or the new one.
func (f folder) writeRecord(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	part := f.record(r.ID) + ".part"
	if err := os.WriteFile(part, b, 0o600); err != nil {
		return err
	}
	return os.Rename(part, f.record(r.ID))
}

// known returns the IDs of which anything exists here.
func (f folder) known() ([]string, error) {
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, e := range entries {
		id, _, isFile := strings.Cut(e.Name(), ".")
		// A lock alone is nothing: someone is looking, or died looking.
		if (isFile && strings.HasSuffix(e.Name(), ".lock")) || !idForm.MatchString(id) {
			continue
		}
		seen[id] = true
	}
	ids := make([]string, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	return ids, nil
}

func (f folder) exists(id string) bool {
	for _, path := range []string{f.dir(id), f.record(id), f.record(id) + ".part"} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

// started reports whether qemu ever ran for this ID.
func (f folder) started(id string) bool {
	_, err := os.Lstat(filepath.Join(f.dir(id), startedFile))
	return err == nil
}

// remove removes everything but the lock. The record goes last: while it is there, List shows what is left.
func (f folder) remove(id string) error {
	if err := os.RemoveAll(f.dir(id)); err != nil {
		return err
	}
	return errors.Join(gone(os.Remove(f.record(id)+".part")), gone(os.Remove(f.record(id))))
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// open opens a file that the microVM's uid wrote. It may have made it a link to something of root's, or a pipe
// that blocks, so only a regular file is opened and no link is followed.
func (f folder) open(id, file string) (*os.File, error) {
	dir, err := os.OpenFile(f.dir(id), unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(f.dir(id), file), Err: err}
	}
	var own, parent unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &own), unix.Fstat(int(dir.Fd()), &parent)); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	if own.Mode&unix.S_IFMT != unix.S_IFREG || own.Nlink != 1 || own.Uid != parent.Uid {
		_ = unix.Close(fd)
		return nil, firerunner.Errorf(firerunner.Invalid, "qemu: %s of %s is not a file of the microVM's own", file, id)
	}
	return os.NewFile(uintptr(fd), file), nil
}

// tail returns the last bytes of a file of the microVM's, for an error message.
func (f folder) tail(id, file string, limit int64) string {
	r, err := f.open(id, file)
	if err != nil {
		return ""
	}
	defer r.Close()
	if info, err := r.Stat(); err == nil && info.Size() > limit {
		_, _ = r.Seek(-limit, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(r, limit))
	return string(b)
}

// hold takes the lock of an ID, across processes, and waits for it until ctx is done. The lock file is gone again
// once nothing of the microVM is left.
func (f folder) hold(ctx context.Context, id string) (release func(), err error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		file, err := f.tryHold(id)
		if err != nil {
			return nil, firerunner.Errorf(firerunner.Unavailable, "qemu: locking microVM %s: %w", id, err)
		}
		if file != nil {
			return func() {
				if !f.exists(id) {
					_ = os.Remove(f.lock(id))
				}
				_ = file.Close()
			}, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, firerunner.Errorf(firerunner.Unavailable, "qemu: waiting for the lock of microVM %s: %w", id, context.Cause(ctx))
		}
	}
}

// tryHold returns nil where another holds the lock. The file may have been removed between opening and locking
// it; only a lock on the file that has the name now counts.
func (f folder) tryHold(id string) (*os.File, error) {
	file, err := os.OpenFile(f.lock(id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	held, err1 := file.Stat()
	named, err2 := os.Stat(f.lock(id))
	if err1 != nil || err2 != nil || !os.SameFile(held, named) {
		_ = file.Close()
		return nil, nil
	}
	return file, nil
}

// held reports whether someone holds the lock of an ID now.
func (f folder) held(id string) bool {
	file, err := os.Open(f.lock(id))
	if err != nil {
		return false
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	return errors.Is(err, unix.EWOULDBLOCK)
}

// make makes the microVM's own folder with the lowest uid of the range that no other folder has. The folder's
// owner is the record of who has which uid, so a crash can lose none. Not as root: the daemon's own uid.
func (f folder) make(id string, asRoot bool, base, count int) (uid int, err error) {
	if !asRoot {
		return os.Geteuid(), os.Mkdir(f.dir(id), 0o700)
	}
	lock, err := os.OpenFile(filepath.Join(string(f), "uids.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // held for microseconds
		return 0, err
	}
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return 0, err
	}
	// A uid that runs something, whoever made it, is not free: two must never be able to reach each other.
	taken, err := runningUIDs()
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() {
			taken[int(info.Sys().(*syscall.Stat_t).Uid)] = true
		}
	}
	for uid = base; taken[uid]; uid++ {
	}
	if uid >= base+count {
		return 0, firerunner.Errorf(firerunner.Exhausted, "qemu: all %d uids from %d on are taken", count, base)
	}
	if err := os.Mkdir(f.dir(id), 0o700); err != nil {
		return 0, err
	}
	if err := os.Lchown(f.dir(id), uid, uid); err != nil {
		return 0, firerunner.Errorf(firerunner.Unavailable, "qemu: giving the folder of %s to uid %d: %w", id, uid, err).
			WithHint("in a container, map the uids that the qemu driver uses, or choose others")
	}
	return uid, nil
}

// installationOf names an installation by its state folder.
func installationOf(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	return hex.EncodeToString(sum[:6])
}

// uidBaseOf gives each state folder a range of uids of its own, as far as chance allows.
func uidBaseOf(stateDir string) int {
	sum := sha256.Sum256([]byte(stateDir))
	return firstUID + int(binary.BigEndian.Uint64(sum[8:])%uidRanges)*defaultUIDCount
}
