package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Whiteouts: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
	aufsMetadata   = ".wh..wh." // of an old storage driver; not part of the file system
)

// flattener lays one tar file over another, and keeps the contents of their files in a file of its own.
type flattener struct {
	tree  *tree
	layer int
	spool *spool
}

// spool is a file that the contents of many files are appended to.
type spool struct {
	f    *os.File
	w    *bufio.Writer
	size int64
}

func newSpool(path string) (*spool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &spool{f: f, w: bufio.NewWriterSize(f, 1<<20)}, nil
}

// add appends what a reader gives. It can be read after the next flush.
func (s *spool) add(r io.Reader) (section, error) {
	n, err := io.Copy(s.w, r)
	part := section{s.f, s.size, n}
	s.size += n
	return part, err
}

func (s *spool) close() { _ = s.f.Close() }

func newFlattener(spool *spool) *flattener { return &flattener{tree: newTree(), spool: spool} }

// add lays a layer over what is there. The layer is foreign: what it may hold is bounded, and what has no place in a
// guest is left out. An error leaves the tree half-made.
func (f *flattener) add(ctx context.Context, r io.Reader) error {
	f.layer++
	in := tar.NewReader(r)
	for entries := 0; ; entries++ {
		if entries%256 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the layer: %w", err)
		}
		if entries > maxNodes {
			return fmt.Errorf("more than %d entries", maxNodes)
		}
		if err := f.entry(h, in); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
	return f.spool.w.Flush()
}

func (f *flattener) entry(h *tar.Header, data io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	dir, base, err := f.tree.walk(h.Name, false, true, f.layer)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteout) {
		return f.whiteOut(dir, base)
	}
	n, err := f.node(h, data)
	if err != nil || n == nil {
		return err
	}
	if base == "" { // the root itself
		if n.kind == kindDir {
			n.children = f.tree.root.children
			*f.tree.root = *n
		}
		return nil
	}
	if old := dir.children[base]; old != nil && old.kind == kindDir && n.kind == kindDir {
		n.children = old.children
	}
	_, err = f.tree.put(dir, base, n, f.layer)
	return err
}

// node makes what a header describes; nil for what is left out.
func (f *flattener) node(h *tar.Header, data io.Reader) (*node, error) {
	const maxID = 1<<32 - 2 // -1 means "nobody" to chown(2)
	if h.Uid < 0 || h.Gid < 0 || h.Uid > maxID || h.Gid > maxID {
		return nil, errors.New("an owner that cannot be")
	}
	n := &node{mode: uint32(h.Mode) & 0o7777, uid: h.Uid, gid: h.Gid, mtime: min(max(h.ModTime.Unix(), 0), 1<<33)}
	switch h.Typeflag {
	case tar.TypeDir:
		n.kind, n.children = kindDir, map[string]*child{}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxTarget || strings.ContainsRune(h.Linkname, 0) {
			return nil, errors.New("a symbolic link that leads nowhere")
		}
		n.kind, n.target, n.mode = kindLink, h.Linkname, 0o777
	case tar.TypeFifo:
		n.kind = kindPipe
	case tar.TypeChar, tar.TypeBlock:
		return nil, nil
	case tar.TypeLink:
		dir, base, err := f.tree.walk(h.Linkname, false, false, 0)
		if err == nil && dir.children[base] == nil {
			err = errAbsent
		}
		if err != nil {
			return nil, fmt.Errorf("a hard link to %.200q: %w", h.Linkname, err)
		}
		if n = dir.children[base].node; n.kind == kindDir {
			return nil, errors.New("a hard link to a directory")
		}
	case tar.TypeReg:
		if sparse(h) { // a few bytes that unpack to many GiB; no tool puts one into a layer
			return nil, errors.New("a sparse file")
		}
		if h.Size > maxFile || f.tree.bytes+h.Size > maxTree {
			return nil, fmt.Errorf("more than %d bytes", int64(maxTree))
		}
		part, err := f.spool.add(data)
		if err != nil {
			return nil, err
		}
		if n.size = part.size; n.size > 0 {
			n.content = part
		}
		if caps := h.PAXRecords[capabilityRecord]; len(caps) <= maxCaps {
			n.caps = []byte(caps)
		}
	default:
		return nil, fmt.Errorf("an entry of type %q", h.Typeflag)
	}
	return n, nil
}

// sparse reports whether a file in the archive has holes, in one of GNU tar's ways of the PAX format.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// whiteOut removes what lower layers have under a name, or all that they have in a directory.
func (f *flattener) whiteOut(dir *node, base string) error {
	if base == opaqueWhiteout {
		f.removeLower(dir)
		return nil
	}
	if strings.HasPrefix(base, aufsMetadata) {
		return nil
	}
	name := strings.TrimPrefix(base, whiteout)
	if name == "" || name == "." || name == ".." {
		return errPath
	}
	if c := dir.children[name]; c != nil {
		f.removeChild(dir, name, c)
	}
	return nil
}

func (f *flattener) removeLower(dir *node) {
	for name, c := range dir.children {
		f.removeChild(dir, name, c)
	}
}

// removeChild spares what came with this very layer, wherever it stands in it.
func (f *flattener) removeChild(dir *node, name string, c *child) {
	if c.layer < f.layer {
		delete(dir.children, name)
	} else if c.kind == kindDir {
		f.removeLower(c.node)
	}
}
