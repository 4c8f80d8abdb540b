package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ext4Reader reads an ext4 file system that is in a file, of the kinds that we and mkfs.ext4 make. What it reads is
// not trusted: every number is held against the size of the file before it is used.
type ext4Reader struct {
	at       io.ReaderAt
	blocks   int64 // of 4 KiB in the file
	inodes   uint32
	perGroup uint32
	inodeLen int
	tables   []int64 // the inode table of each group
	tree     *tree
	seen     map[uint32]*node // files, by inode: a second name is a hard link
	depth    int
}

// readExt4 reads a file system of that many bytes as a tree. The contents of its files stay where they are.
func readExt4(at io.ReaderAt, size int64) (*tree, error) {
	r := &ext4Reader{at: at, blocks: size / blockSize, tree: newTree(), seen: map[uint32]*node{}}
	if err := r.super(); err != nil {
		return nil, fmt.Errorf("read the file system: %w", err)
	}
	root, err := r.node(rootInode)
	if err == nil && (root == nil || root.kind != kindDir) {
		err = errDamaged
	}
	if err == nil {
		r.tree.root = root
		err = r.fill(root, rootInode)
	}
	if err != nil {
		return nil, fmt.Errorf("read the file system: %w", err)
	}
	delete(root.children, "lost+found")
	return r.tree, nil
}

var errDamaged = errors.New("it is damaged, or of a kind that is not read here")

func (r *ext4Reader) read(offset int64, n int) ([]byte, error) {
	if offset < 0 || offset+int64(n) > r.blocks*blockSize {
		return nil, errDamaged
	}
	b := make([]byte, n)
	_, err := r.at.ReadAt(b, offset)
	return b, err
}

func (r *ext4Reader) super() error {
	s, err := r.read(1024, 1024)
	if err != nil {
		return err
	}
	incompat := le.Uint32(s[96:])
	r.inodes, r.perGroup, r.inodeLen = le.Uint32(s[0:]), le.Uint32(s[40:]), int(le.Uint16(s[88:]))
	if le.Uint16(s[56:]) != ext4Magic || le.Uint32(s[24:]) != 2 || incompat&^uint32(knownIncompat) != 0 || incompat&0x40 == 0 ||
		le.Uint32(s[32:]) != groupBlocks || r.perGroup == 0 || r.perGroup > groupBlocks || (r.inodeLen != 256 && r.inodeLen != 128) {
		return errDamaged
	}
	size := descriptorSize
	if incompat&0x80 != 0 {
		if size = int(le.Uint16(s[254:])); size != 64 {
			return errDamaged
		}
	}
	groups := (int64(r.inodes) + int64(r.perGroup) - 1) / int64(r.perGroup)
	if groups > (r.blocks+groupBlocks-1)/groupBlocks {
		return errDamaged
	}
	all, err := r.read(blockSize, int(groups)*size)
	if err != nil {
		return err
	}
	for d := range int(groups) {
		table := int64(le.Uint32(all[d*size+8:]))
		if size == 64 {
			table |= int64(le.Uint32(all[d*size+40:])) << 32
		}
		r.tables = append(r.tables, table)
	}
	return nil
}

func (r *ext4Reader) inode(number uint32) ([]byte, error) {
	if number == 0 || number > r.inodes {
		return nil, errDamaged
	}
	table := r.tables[(number-1)/r.perGroup]
	if table > r.blocks {
		return nil, errDamaged
	}
	return r.read(table*blockSize+int64((number-1)%r.perGroup)*int64(r.inodeLen), r.inodeLen)
}

// node reads one inode; nil for what is not taken over. What is in a directory is read by fill.
func (r *ext4Reader) node(number uint32) (*node, error) {
	in, err := r.inode(number)
	if err != nil {
		return nil, err
	}
	mode, flags := le.Uint16(in), le.Uint32(in[32:])
	n := &node{
		mode: uint32(mode) & 0o7777, mtime: int64(int32(le.Uint32(in[16:]))),
		uid: int(le.Uint16(in[2:])) | int(le.Uint16(in[120:]))<<16,
		gid: int(le.Uint16(in[24:])) | int(le.Uint16(in[122:]))<<16,
	}
	if r.inodeLen > 140 {
		n.mtime += int64(le.Uint32(in[136:])&3) << 32
	}
	n.mtime = max(n.mtime, 0)
	if flags&inlineFlags != 0 {
		return nil, errDamaged
	}
	switch mode & modeType {
	case modeDir:
		n.kind, n.children = kindDir, map[string]*child{}
	case modePipe:
		n.kind = kindPipe
	case modeLink:
		n.kind, n.mode = kindLink, 0o777
		size := int64(le.Uint32(in[4:]))
		if size == 0 || size > maxTarget {
			return nil, errDamaged
		}
		target := in[40:100]
		if flags&extentsFlag != 0 {
			var content content
			if content, err = r.content(in, size); err == nil {
				target, err = io.ReadAll(content.open())
			}
		}
		if err != nil || int64(len(target)) < size || bytes.IndexByte(target[:size], 0) >= 0 {
			return nil, errors.Join(err, errDamaged)
		}
		n.target = string(target[:size])
	case modeFile:
		n.size = int64(le.Uint32(in[4:])) | int64(le.Uint32(in[108:]))<<32
		if n.size < 0 || n.size > maxFile {
			return nil, errDamaged
		}
		if n.size > 0 {
			if n.content, err = r.content(in, n.size); err != nil {
				return nil, err
			}
		}
		n.caps = capabilities(in)
	default:
		return nil, nil
	}
	return n, nil
}

// capabilities finds security.capability in an inode, or nothing.
func capabilities(in []byte) []byte {
	if len(in) < 256 {
		return nil
	}
	start := 128 + int(le.Uint16(in[128:]))
	if start+4 > len(in) || le.Uint32(in[start:]) != xattrMagic {
		return nil
	}
	entries := in[start+4:]
	for e := entries; len(e) >= 16 && e[0] != 0; {
		length := (16 + int(e[0]) + 3) &^ 3
		if length > len(e) {
			return nil
		}
		offset, size := int(le.Uint16(e[2:])), int64(le.Uint32(e[8:]))
		if e[1] == capsIndex && string(e[16:16+int(e[0])]) == "capability" &&
			le.Uint32(e[4:]) == 0 && size <= maxCaps && offset+int(size) <= len(entries) {
			return bytes.Clone(entries[offset : offset+int(size)])
		}
		e = e[length:]
	}
	return nil
}

// fill reads a directory and all below it.
func (r *ext4Reader) fill(d *node, number uint32) error {
	if r.depth++; r.depth > maxPath {
		return errDamaged
	}
	defer func() { r.depth-- }()
	in, err := r.inode(number)
	if err != nil {
		return err
	}
	size := int64(le.Uint32(in[4:]))
	if size > 1<<28 || size%blockSize != 0 {
		return errDamaged
	}
	content, err := r.content(in, size)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(content.open())
	if err != nil {
		return err
	}
	for at := 0; at+8 <= len(data); {
		e := data[at:]
		length, nameLen := int(le.Uint16(e[4:])), int(e[6])
		if length < 8 || length%4 != 0 || length > blockSize-at%blockSize || 8+nameLen > length {
			return errDamaged
		}
		if err := r.entry(d, string(e[8:8+nameLen]), le.Uint32(e)); err != nil {
			return err
		}
		at += length
	}
	return nil
}

func (r *ext4Reader) entry(d *node, name string, number uint32) error {
	if number == 0 || name == "." || name == ".." || name == "" {
		return nil
	}
	if strings.ContainsAny(name, "/\x00") || d.children[name] != nil {
		return errDamaged
	}
	n := r.seen[number]
	if n == nil {
		var err error
		if n, err = r.node(number); err != nil || n == nil {
			return err
		}
		r.seen[number] = n
	} else if n.kind == kindDir {
		return errDamaged // a directory has one name, or else there are circles
	}
	if _, err := r.tree.put(d, name, n, 0); err != nil {
		return err
	}
	if n.kind == kindDir {
		return r.fill(n, number)
	}
	return nil
}

// extent is a piece of a file: blocks from start on disk; none on disk for a hole.
type extent struct {
	first, length, start int64
}

// pieces is content in extents.
type pieces struct {
	at      io.ReaderAt
	extents []extent
	size    int64
}

func (r *ext4Reader) content(in []byte, size int64) (content, error) {
	if le.Uint32(in[32:])&extentsFlag == 0 {
		return nil, errDamaged
	}
	p := pieces{at: r.at, size: size}
	if err := r.extents(&p, in[40:100], 5); err != nil {
		return nil, err
	}
	return p, nil
}

// extents reads a node of an extent tree: https://docs.kernel.org/filesystems/ext4/dynamic.html#extent-tree
func (r *ext4Reader) extents(p *pieces, b []byte, depth int) error {
	entries := int(le.Uint16(b[2:]))
	own := int(le.Uint16(b[6:]))
	if le.Uint16(b) != extentMagic || own >= depth || 12+12*entries > len(b) {
		return errDamaged
	}
	for i := range entries {
		e := b[12+12*i:]
		if own > 0 {
			block, err := r.read((int64(le.Uint32(e[4:]))|int64(le.Uint16(e[8:]))<<32)*blockSize, blockSize)
			if err != nil {
				return err
			}
			if err := r.extents(p, block, own); err != nil {
				return err
			}
			continue
		}
		x := extent{int64(le.Uint32(e)), int64(le.Uint16(e[4:])), int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32}
		if x.length > maxExtent {
			continue // reserved but not written: a hole
		}
		end := int64(0)
		if len(p.extents) > 0 {
			last := p.extents[len(p.extents)-1]
			end = last.first + last.length
		}
		if x.first < end || x.start+x.length > r.blocks || len(p.extents) > 1<<20 {
			return errDamaged
		}
		p.extents = append(p.extents, x)
	}
	return nil
}

func (p pieces) open() io.Reader {
	var parts []io.Reader
	done := int64(0) // bytes
	add := func(r io.Reader, n int64) {
		if n = min(n, p.size-done); n > 0 {
			parts = append(parts, io.LimitReader(r, n))
			done += n
		}
	}
	for _, x := range p.extents {
		add(zeros{}, x.first*blockSize-done)
		add(io.NewSectionReader(p.at, x.start*blockSize, x.length*blockSize), x.length*blockSize)
	}
	add(zeros{}, p.size-done)
	return io.MultiReader(parts...)
}

// zeros is an endless hole.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
