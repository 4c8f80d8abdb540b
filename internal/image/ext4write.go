package image

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ext4Writer writes one file system. Blocks that stay zero are never written: the file has holes there.
type ext4Writer struct {
	f      *os.File
	geo    geometry
	blocks *allocator
	tables []uint32 // the inode table of each group
	maps   []uint32 // the block of each group's block bitmap; its inode bitmap follows it
	inode  map[*node]uint32
	links  map[*node]int
	last   uint32 // the last inode in use
	dirs   []int  // directories in each group
}

// writeExt4 writes a tree as an ext4 file system into an empty file, with at least free bytes of free space.
func writeExt4(f *os.File, t *tree, free int64) error {
	w := &ext4Writer{f: f, inode: map[*node]uint32{}, links: map[*node]int{}, last: firstInode}
	data := int64(1) // of lost+found
	w.count(t.root, &data)
	var err error
	if w.geo, err = plan(int64(w.last), data, (free+blockSize-1)/blockSize); err != nil {
		return err
	}
	if err := f.Truncate(int64(w.geo.blocks()) * blockSize); err != nil {
		return err
	}
	w.dirs = make([]int, w.geo.groups)
	if err := w.reserve(); err != nil {
		return err
	}
	lost := newDir()
	lost.mode = 0o700
	w.inode[lost] = firstInode
	if err := w.directory(t.root, rootInode, rootInode, lost); err != nil {
		return err
	}
	if err := w.directory(lost, firstInode, rootInode, nil); err != nil {
		return err
	}
	if err := w.tree(t.root, rootInode); err != nil {
		return err
	}
	if err := w.resize(); err != nil {
		return err
	}
	return w.finish()
}

// count gives each node its number, in the order of names, and counts the blocks that they need.
func (w *ext4Writer) count(d *node, blocks *int64) {
	*blocks += int64(len(pack(d, 0, 0, w.inode, nil))) / blockSize
	for _, name := range d.names() {
		n := d.children[name].node
		w.links[n]++
		if w.inode[n] != 0 {
			continue
		}
		w.last++
		w.inode[n] = w.last
		switch n.kind {
		case kindDir:
			w.count(n, blocks)
		case kindFile:
			need := (n.size + blockSize - 1) / blockSize
			*blocks += need + need/(maxExtent/2)/340 + 1 // and one for extents that do not fit into the inode
		case kindLink:
			*blocks++
		case kindPipe:
		}
	}
}

// reserve takes the blocks of the superblock's copies, and then those of the bitmaps and inode tables.
func (w *ext4Writer) reserve() error {
	w.blocks = newAllocator(w.geo.blocks())
	for g := range w.geo.groups {
		if backup(g) {
			w.blocks.take(g*groupBlocks, 1+w.geo.descBlocks+w.geo.reserved)
		}
	}
	for range w.geo.groups {
		start, err := w.blocks.contiguous(2)
		if err != nil {
			return err
		}
		w.maps = append(w.maps, start)
	}
	for range w.geo.groups {
		start, err := w.blocks.contiguous(w.geo.tableBlocks())
		if err != nil {
			return err
		}
		w.tables = append(w.tables, start)
	}
	return nil
}

// tree writes what is in a directory.
func (w *ext4Writer) tree(d *node, number uint32) error {
	for _, name := range d.names() {
		n := d.children[name].node
		own := w.inode[n]
		var err error
		switch n.kind {
		case kindDir:
			if err = w.directory(n, own, number, nil); err == nil {
				err = w.tree(n, own)
			}
		case kindFile:
			err = w.file(n, own)
		case kindLink:
			err = w.link(n, own)
		case kindPipe:
			in := w.newInode(n, modePipe)
			le.PutUint16(in[26:], uint16(w.links[n]))
			err = w.writeInode(own, in)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (w *ext4Writer) directory(d *node, number, parent uint32, lost *node) error {
	data := pack(d, number, parent, w.inode, lost)
	runs, err := w.blocks.alloc(int64(len(data)) / blockSize)
	if err != nil {
		return err
	}
	if err := w.writeRuns(runs, data); err != nil {
		return err
	}
	links := 2
	for _, c := range d.children {
		if c.kind == kindDir {
			links++
		}
	}
	if lost != nil {
		links++
	}
	if links > 65000 {
		links = 1 // many
	}
	in := w.newInode(d, modeDir)
	le.PutUint16(in[26:], uint16(links))
	w.dirs[(number-1)/w.geo.inodesPerGroup]++
	return w.extents(number, in, runs, int64(len(data)))
}

func (w *ext4Writer) writeRuns(runs []blockRun, data []byte) error {
	for _, r := range runs {
		n := min(len(data), int(r.length)*blockSize)
		if _, err := w.f.WriteAt(data[:n], int64(r.start)*blockSize); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// pack returns the blocks of a directory.
func pack(d *node, number, parent uint32, numbers map[*node]uint32, lost *node) []byte {
	p := &dirPacker{}
	p.add(".", number, entryDir)
	p.add("..", parent, entryDir)
	if lost != nil {
		p.add("lost+found", numbers[lost], entryDir)
	}
	for _, name := range d.names() {
		n := d.children[name].node
		p.add(name, numbers[n], [...]byte{kindFile: entryFile, kindDir: entryDir, kindLink: entryLink, kindPipe: entryPipe}[n.kind])
	}
	return p.done()
}

// dirPacker packs directory entries: the inode, the length of the entry, the length of the name, the type, the name.
// An entry does not cross a block; the last of a block reaches to its end.
type dirPacker struct {
	data []byte
	last int // where the last entry begins
}

func (p *dirPacker) add(name string, inode uint32, fileType byte) {
	size := (8 + len(name) + 3) &^ 3
	if over := len(p.data)%blockSize + size; len(p.data)%blockSize != 0 && over > blockSize {
		p.fill()
	}
	p.last = len(p.data)
	entry := make([]byte, size)
	le.PutUint32(entry, inode)
	le.PutUint16(entry[4:], uint16(size))
	entry[6], entry[7] = byte(len(name)), fileType
	copy(entry[8:], name)
	p.data = append(p.data, entry...)
}

func (p *dirPacker) fill() {
	if rest := len(p.data) % blockSize; rest != 0 {
		p.data = append(p.data, make([]byte, blockSize-rest)...)
		le.PutUint16(p.data[p.last+4:], uint16(len(p.data)-p.last))
	}
}

func (p *dirPacker) done() []byte {
	p.fill()
	return p.data
}

func (w *ext4Writer) file(n *node, number uint32) error {
	if w.links[n] < 0 {
		return nil // written under its first name
	}
	in := w.newInode(n, modeFile)
	le.PutUint16(in[26:], uint16(w.links[n]))
	if w.links[n] > 65000 {
		return errors.New("too many hard links")
	}
	w.links[n] = -1
	runs, err := w.blocks.alloc((n.size + blockSize - 1) / blockSize)
	if err != nil {
		return err
	}
	if len(n.caps) > 0 {
		putCapabilities(in, n.caps)
	}
	if n.content != nil {
		if err := w.copy(runs, n.content.open(), n.size); err != nil {
			return err
		}
	}
	return w.extents(number, in, runs, n.size)
}

// copy writes a file's content; blocks of zeros are left as holes.
func (w *ext4Writer) copy(runs []blockRun, from io.Reader, size int64) error {
	buffer, zeros := make([]byte, 64*blockSize), make([]byte, 64*blockSize)
	for _, r := range runs {
		at, left := int64(r.start)*blockSize, min(int64(r.length)*blockSize, size)
		size -= left
		for left > 0 {
			n := min(left, int64(len(buffer)))
			if _, err := io.ReadFull(from, buffer[:n]); err != nil {
				return fmt.Errorf("read its content: %w", err)
			}
			if string(buffer[:n]) != string(zeros[:n]) {
				if _, err := w.f.WriteAt(buffer[:n], at); err != nil {
					return err
				}
			}
			at, left = at+n, left-n
		}
	}
	return nil
}

// link writes a symbolic link: a short target stands in the inode itself.
func (w *ext4Writer) link(n *node, number uint32) error {
	if w.links[n] < 0 {
		return nil
	}
	in := w.newInode(n, modeLink)
	le.PutUint16(in[26:], uint16(w.links[n]))
	w.links[n] = -1
	if len(n.target) < 60 {
		le.PutUint32(in[4:], uint32(len(n.target)))
		copy(in[40:100], n.target)
		return w.writeInode(number, in)
	}
	runs, err := w.blocks.alloc(1)
	if err != nil {
		return err
	}
	if err := w.writeRuns(runs, []byte(n.target)); err != nil {
		return err
	}
	return w.extents(number, in, runs, int64(len(n.target)))
}
