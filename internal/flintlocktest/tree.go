package flintlocktest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Marks of removed files in a layer.
// Source: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

const maxSymlinks = 40

// tree is the file system of an image while its layers are laid on top of each other, the lowest first. Layers are
// foreign bytes: all work is within one os.Root, links are followed as they would be with the tree as /, and size and
// number of files are bounded. Devices are left out: the guest's kernel makes its own.
type tree struct {
	root      *os.Root
	bytes     int64
	files     int
	modes     map[string]fs.FileMode // of folders; set at the end, because one may be closed even to its owner
	inLayer   map[string]bool        // what the layer at hand has put there
	privilege bool                   // whether owners can be set here
	owned     map[string]owned       // what could not be set here
}

// owned is who shall own a file, and its mode with the bits of its type.
type owned struct {
	uid, gid int
	mode     uint32
}

func openTree(dir string, maxBytes int64, maxFiles int) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &tree{root: root, bytes: maxBytes, files: maxFiles, modes: map[string]fs.FileMode{}, owned: map[string]owned{}, privilege: os.Geteuid() == 0}, nil
}

// apply lays one layer on top.
func (t *tree) apply(layer io.Reader) error {
	t.inLayer = map[string]bool{}
	in := tar.NewReader(layer)
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a layer: %w", err)
		}
		if t.files--; t.files < 0 {
			return errors.New("the image has too many files")
		}
		if err := t.entry(head, in); err != nil {
			return fmt.Errorf("%s: %w", head.Name, err)
		}
	}
}

func (t *tree) entry(head *tar.Header, content io.Reader) error {
	at := path.Clean("/" + head.Name)[1:]
	if at == "" {
		return nil // the root keeps its mode
	}
	parent, err := t.walk(path.Dir(at), true)
	if err != nil {
		return err
	}
	base := path.Base(at)
	switch {
	case base == opaqueWhiteout:
		return t.hideBelow(parent)
	case strings.HasPrefix(base, whiteout):
		name := strings.TrimPrefix(base, whiteout)
		hidden := path.Join(parent, name)
		if name == "" || name == "." || name == ".." || t.inLayer[hidden] {
			return nil // no name, or newer than the mark
		}
		return t.removeAll(hidden)
	}
	at = path.Join(parent, base)
	for dir := at; dir != "."; dir = path.Dir(dir) {
		t.inLayer[dir] = true
	}
	if err := t.clear(at, head.Typeflag == tar.TypeDir); err != nil {
		return err
	}
	return t.put(at, head, content)
}

// clear removes what is in the way: everything, except a folder that stays a folder.
func (t *tree) clear(at string, isDir bool) error {
	info, err := t.root.Lstat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case isDir && info.IsDir():
		return nil
	}
	return t.removeAll(at)
}

// removeAll removes a file, or a folder with all in it, and what was to be done to it.
func (t *tree) removeAll(at string) error {
	if info, err := t.root.Lstat(at); err == nil && info.IsDir() {
		below := func(name string) bool { return name == at || strings.HasPrefix(name, at+"/") }
		maps.DeleteFunc(t.modes, func(name string, _ fs.FileMode) bool { return below(name) })
		maps.DeleteFunc(t.owned, func(name string, _ owned) bool { return below(name) })
	}
	delete(t.owned, at)
	return t.root.RemoveAll(at)
}

func (t *tree) put(at string, head *tar.Header, content io.Reader) error {
	mode := head.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	switch head.Typeflag {
	case tar.TypeDir:
		if err := t.root.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		t.modes[at] = mode
		return t.own(at, head)
	case tar.TypeReg:
		return t.putFile(at, head, mode, content)
	case tar.TypeSymlink:
		if err := t.root.Symlink(head.Linkname, at); err != nil {
			return err
		}
		return t.own(at, head)
	case tar.TypeLink:
		target, err := t.walk(path.Dir(path.Clean("/" + head.Linkname)[1:]), false)
		if err != nil {
			return err
		}
		return t.root.Link(path.Join(target, path.Base(head.Linkname)), at)
	}
	return nil // devices and pipes
}

func (t *tree) putFile(at string, head *tar.Header, mode fs.FileMode, content io.Reader) error {
	if t.bytes -= head.Size; head.Size < 0 || t.bytes < 0 {
		return errors.New("the image is too large")
	}
	f, err := t.root.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = t.own(at, head)
	}
	if err != nil {
		return err
	}
	if !t.privilege {
		mode |= 0o400 // or else it cannot be read again
	}
	if err := t.root.Chmod(at, mode); err != nil { // after chown, which takes set-user-ID away
		return err
	}
	t.capability(at, head)
	return t.root.Chtimes(at, head.ModTime, head.ModTime)
}

func (t *tree) own(at string, head *tar.Header) error {
	if !t.privilege {
		t.owned[at] = owned{head.Uid, head.Gid, typeBits(head.Typeflag) | uint32(head.Mode&0o7777)}
		return nil
	}
	return t.root.Lchown(at, head.Uid, head.Gid)
}

// typeBits is what stat(2) has of a type.
func typeBits(flag byte) uint32 {
	switch flag {
	case tar.TypeDir:
		return unix.S_IFDIR
	case tar.TypeSymlink:
		return unix.S_IFLNK
	}
	return unix.S_IFREG
}

// capability keeps what lets a program such as ping do more than its user may. It is lost where this file system or
// this user cannot have it.
func (t *tree) capability(at string, head *tar.Header) {
	const attribute = "security.capability"
	value, ok := head.PAXRecords["SCHILY.xattr."+attribute]
	if !ok {
		return
	}
	if f, err := t.root.Open(at); err == nil {
		_ = unix.Fsetxattr(int(f.Fd()), attribute, []byte(value), 0)
		f.Close()
	}
}

// hideBelow removes what lower layers have put into a folder.
func (t *tree) hideBelow(dir string) error {
	entries, err := fs.ReadDir(t.root.FS(), path.Clean(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := path.Join(dir, e.Name())
		switch {
		case !t.inLayer[at]:
			err = t.removeAll(at)
		case e.IsDir():
			err = t.hideBelow(at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finish gives the folders their modes.
func (t *tree) finish() error {
	for at, mode := range t.modes {
		if !t.privilege {
			mode |= 0o700
		}
		if err := t.root.Chmod(at, mode); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return nil
}
