package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// tree is a file system in memory: names and attributes, with the contents of its files elsewhere. Everything that
// makes or reads a root file system goes through it: layers of a container image, a Debian base, an ext4 file, a tar
// file. No path of it is ever a path on this machine, so that nothing in a foreign archive can lead out of it.
type tree struct {
	root  *node
	nodes int   // made so far; what was replaced counts, because it was work too
	bytes int64 // of files, likewise
}

// node is a file, a directory, a symbolic link or a named pipe. Two names of one file have the same node. Devices
// are not taken over: a guest's kernel makes its own.
type node struct {
	kind     kind
	mode     uint32 // permissions with setuid, setgid and sticky: 07777
	uid, gid int
	mtime    int64             // seconds since 1970
	children map[string]*child // of a directory
	target   string            // of a symbolic link
	size     int64
	content  content // of a file; nil if it is empty
	caps     []byte  // security.capability: capabilities(7)
}

type kind uint8

const (
	kindFile kind = iota
	kindDir
	kindLink
	kindPipe
)

// child is a name in a directory, with the number of the layer that it came with.
type child struct {
	*node
	layer int
}

// content is where the bytes of a file are.
type content interface {
	open() io.Reader
}

// literal is content in memory.
type literal []byte

func (l literal) open() io.Reader { return bytes.NewReader(l) }

// section is content in a part of a file.
type section struct {
	at     io.ReaderAt
	offset int64
	size   int64
}

func (s section) open() io.Reader { return io.NewSectionReader(s.at, s.offset, s.size) }

// The most that a tree may hold. A team's image has less than a tenth of it.
const (
	maxNodes    = 2_000_000
	maxTree     = 64 << 30 // bytes of all files
	maxFile     = 32 << 30
	maxName     = 255
	maxPath     = 4096
	maxTarget   = 4095
	maxSymlinks = 40 // that one path may go through, as in path_resolution(7)
)

var errPath = errors.New("not a path inside the root")

func newTree() *tree {
	return &tree{root: newDir()}
}

func newDir() *node { return &node{kind: kindDir, mode: 0o755, children: map[string]*child{}} }

// names returns the names in a directory in order.
func (n *node) names() []string { return slices.Sorted(maps.Keys(n.children)) }

// splitPath returns the components of a path in an archive. It may begin with / or ./, and must not contain "..".
func splitPath(name string) ([]string, error) {
	if len(name) > maxPath || strings.ContainsRune(name, 0) {
		return nil, errPath
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == ".." || len(part) > maxName:
			return nil, errPath
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// walk goes from the root along a path. It follows symbolic links as the guest would, all of them inside the tree,
// the last component only if last says so. With make, directories that are missing are made, as of that layer. It
// returns the directory of the last component and its name; name is empty if the path is the root itself.
func (t *tree) walk(name string, last, mk bool, layer int) (dir *node, base string, err error) {
	todo, err := splitPath(name)
	if err != nil {
		return nil, "", err
	}
	stack, links := []*node{t.root}, 0
	for len(todo) > 0 {
		part, rest := todo[0], todo[1:]
		here := stack[len(stack)-1]
		if part == ".." { // of a symbolic link's target only
			stack = stack[:max(1, len(stack)-1)]
			todo = rest
			continue
		}
		next := here.children[part]
		if next != nil && next.kind == kindLink && (len(rest) > 0 || last) {
			if links++; links > maxSymlinks {
				return nil, "", errors.New("too many symbolic links")
			}
			var more []string
			for p := range strings.SplitSeq(next.target, "/") {
				if p != "" && p != "." {
					more = append(more, p)
				}
			}
			if strings.HasPrefix(next.target, "/") {
				stack = stack[:1]
			}
			todo = append(more, rest...)
			continue
		}
		if len(rest) == 0 {
			return here, part, nil
		}
		if next == nil {
			if !mk {
				return nil, "", errAbsent
			}
			if next, err = t.put(here, part, newDir(), layer); err != nil {
				return nil, "", err
			}
		}
		if next.kind != kindDir {
			return nil, "", fmt.Errorf("%s is not a directory", part)
		}
		stack, todo = append(stack, next.node), rest
	}
	return stack[len(stack)-1], "", nil
}

var errAbsent = errors.New("it is not there")

// lookup finds what a path means, through symbolic links.
func (t *tree) lookup(name string) (*node, error) {
	dir, base, err := t.walk(name, true, false, 0)
	if err != nil {
		return nil, err
	}
	if base == "" {
		return dir, nil
	}
	if found := dir.children[base]; found != nil {
		return found.node, nil
	}
	return nil, errAbsent
}

// has reports whether there is something at a path.
func (t *tree) has(name string) bool {
	_, err := t.lookup(name)
	return err == nil
}

// put puts a new node under a name, in place of what was there.
func (t *tree) put(dir *node, name string, n *node, layer int) (*child, error) {
	t.nodes++
	t.bytes += n.size
	switch {
	case t.nodes > maxNodes:
		return nil, fmt.Errorf("more than %d files", maxNodes)
	case n.size > maxFile || t.bytes > maxTree:
		return nil, fmt.Errorf("more than %d bytes", int64(maxTree))
	}
	c := &child{n, layer}
	dir.children[name] = c
	return c, nil
}

// read returns a small file's content: nothing, and no error, if it is absent.
func (t *tree) read(name string, most int64) ([]byte, error) {
	n, err := t.lookup(name)
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if n.kind != kindFile || n.size > most {
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", name, most)
	}
	if n.content == nil {
		return nil, nil
	}
	return io.ReadAll(n.content.open())
}

// set puts a node at a path, in place of what is there; directories that are missing are made. Symbolic links on
// the way are followed; one in the last place is replaced.
func (t *tree) set(name string, n *node) error {
	dir, base, err := t.walk(name, false, true, 0)
	if err == nil && base == "" {
		err = errPath
	}
	if err == nil {
		_, err = t.put(dir, base, n, 0)
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", path.Clean(name), err)
	}
	return nil
}

// directory makes a directory with these attributes; what is in it stays.
func (t *tree) directory(name string, mode uint32, owner int) error {
	n := newDir()
	if old, err := t.lookup(name); err == nil && old.kind == kindDir {
		n.children = old.children
	}
	n.mode, n.uid, n.gid = mode, owner, owner
	return t.set(name, n)
}

// file writes a small file of root's.
func (t *tree) file(name string, mode uint32, group int, data []byte) error {
	return t.set(name, &node{kind: kindFile, mode: mode, gid: group, size: int64(len(data)), content: literal(data)})
}
