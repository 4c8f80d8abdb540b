package image

import (
	"archive/tar"
	"fmt"
	"io"
	"time"
)

// capabilityRecord is how tar files carry capabilities(7) of a program.
const capabilityRecord = "SCHILY.xattr.security.capability"

// writeTar writes a tree as a tar file: always the same bytes for the same tree, names in order, a directory before
// what is in it.
func writeTar(w io.Writer, t *tree) error {
	out := treeTar{w: tar.NewWriter(w), seen: map[*node]string{}}
	if err := out.dir("", t.root); err != nil {
		return err
	}
	return out.w.Close()
}

type treeTar struct {
	w    *tar.Writer
	seen map[*node]string // the first name of each file
}

func (o *treeTar) dir(name string, d *node) error {
	shown := "./" // the root has attributes too
	if name != "" {
		name += "/"
		shown = name
	}
	if err := o.w.WriteHeader(o.header(shown, d)); err != nil {
		return err
	}
	for _, base := range d.names() {
		n := d.children[base].node
		var err error
		if n.kind == kindDir {
			err = o.dir(name+base, n)
		} else {
			err = o.leaf(name+base, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *treeTar) leaf(name string, n *node) error {
	h := o.header(name, n)
	if first, again := o.seen[n]; again {
		h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
		return o.w.WriteHeader(h)
	}
	o.seen[n] = name
	if err := o.w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if n.kind != kindFile || n.content == nil {
		return nil
	}
	if _, err := io.Copy(o.w, n.content.open()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (o *treeTar) header(name string, n *node) *tar.Header {
	h := &tar.Header{
		Name: name, Mode: int64(n.mode), Uid: n.uid, Gid: n.gid, ModTime: time.Unix(n.mtime, 0).UTC(),
	}
	switch n.kind {
	case kindDir:
		h.Typeflag = tar.TypeDir
	case kindLink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.target
	case kindPipe:
		h.Typeflag = tar.TypeFifo
	case kindFile:
		h.Typeflag, h.Size = tar.TypeReg, n.size
		if len(n.caps) > 0 {
			h.PAXRecords = map[string]string{capabilityRecord: string(n.caps)}
		}
	}
	return h
}
