package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A tree on a disk, for programs that change it. Both ways go through a tar file, and both happen inside the sandbox:
// whatever is in the tree, no name of it means something outside.

// capabilityAttribute is where a file's capabilities(7) are.
const capabilityAttribute = "security.capability"

// unpackTree makes the files of a tar file that writeTar has written in a directory that is empty.
func unpackTree(dir string, r io.Reader) error {
	in := tar.NewReader(r)
	var later []*tar.Header // directories get their times when nothing is put into them any more
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		at := filepath.Join(dir, filepath.FromSlash(path.Clean("/"+h.Name)))
		if err := unpackOne(dir, at, h, in); err != nil {
			return fmt.Errorf("unpack %s: %w", h.Name, err)
		}
		if h.Typeflag == tar.TypeDir {
			later = append(later, h)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // what pads the tar file
		return err
	}
	for i := len(later) - 1; i >= 0; i-- {
		at := filepath.Join(dir, filepath.FromSlash(path.Clean("/"+later[i].Name)))
		if err := os.Chtimes(at, later[i].ModTime, later[i].ModTime); err != nil {
			return err
		}
	}
	return nil
}

func unpackOne(dir, at string, h *tar.Header, data io.Reader) error {
	mode := uint32(h.Mode) & 0o7777
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if err = os.Mkdir(at, 0o700); errors.Is(err, fs.ErrExist) && filepath.Clean(at) == filepath.Clean(dir) {
			err = nil
		}
	case tar.TypeSymlink:
		if err = os.Symlink(h.Linkname, at); err == nil {
			err = os.Lchown(at, h.Uid, h.Gid)
		}
		if err == nil {
			then := unix.NsecToTimespec(h.ModTime.UnixNano())
			err = unix.UtimesNanoAt(unix.AT_FDCWD, at, []unix.Timespec{then, then}, unix.AT_SYMLINK_NOFOLLOW)
		}
		return err
	case tar.TypeLink:
		return os.Link(filepath.Join(dir, filepath.FromSlash(path.Clean("/"+h.Linkname))), at)
	case tar.TypeFifo:
		err = unix.Mkfifo(at, 0o600)
	default:
		err = unpackFile(at, data)
	}
	// The owner first: a change of it takes setuid and capabilities away.
	if err == nil {
		err = os.Lchown(at, h.Uid, h.Gid)
	}
	if err == nil {
		err = unix.Chmod(at, mode)
	}
	if caps := h.PAXRecords[capabilityRecord]; err == nil && caps != "" {
		err = unix.Lsetxattr(at, capabilityAttribute, []byte(caps), 0)
	}
	if err == nil {
		err = os.Chtimes(at, time.Time{}, h.ModTime)
	}
	return err
}

func unpackFile(at string, data io.Reader) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	return errors.Join(err, f.Close())
}

// packTree writes what is in a directory as a tar file: files, directories, links and pipes. Other file systems that are
// mounted in it, and what skip says, stay out.
func packTree(w io.Writer, dir string, skip func(name string) bool) error {
	var root unix.Stat_t
	if err := unix.Lstat(dir, &root); err != nil {
		return err
	}
	p := packer{w: tar.NewWriter(w), seen: map[uint64]string{}, device: root.Dev}
	err := filepath.WalkDir(dir, func(at string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		if name != "." && skip(name) {
			return fs.SkipDir
		}
		return p.add(filepath.ToSlash(name), at)
	})
	return errors.Join(err, p.w.Close())
}

type packer struct {
	w      *tar.Writer
	seen   map[uint64]string // the first name of each file that has several, by inode
	device uint64
}

func (p *packer) add(name, at string) error {
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix())}
	h.ModTime = h.ModTime.Truncate(time.Second)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if st.Dev != p.device { // the place where something is mounted; what was below is the kernel's to fill
			h.Mode = 0o755
			if err := p.w.WriteHeader(h); err != nil {
				return err
			}
			return fs.SkipDir
		}
		return p.w.WriteHeader(h)
	case unix.S_IFLNK:
		target, err := os.Readlink(at)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
		return p.w.WriteHeader(h)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
		return p.w.WriteHeader(h)
	case unix.S_IFREG:
		if first, again := p.seen[st.Ino]; again {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return p.w.WriteHeader(h)
		}
		if st.Nlink > 1 {
			p.seen[st.Ino] = name
		}
		return p.file(h, at, st.Size)
	}
	return nil // devices and sockets
}

func (p *packer) file(h *tar.Header, at string, size int64) error {
	h.Typeflag, h.Size = tar.TypeReg, size
	caps := make([]byte, maxCaps)
	if n, err := unix.Lgetxattr(at, capabilityAttribute, caps); err == nil && n > 0 {
		h.PAXRecords = map[string]string{capabilityRecord: string(caps[:n])}
	}
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(p.w, f, size)
	return err
}
