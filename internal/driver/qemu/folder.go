package qemu

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

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
