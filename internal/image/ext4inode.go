package image

import "errors"

// newInode returns an inode with a node's attributes: one link, no content.
func (w *ext4Writer) newInode(n *node, fileType uint16) []byte {
	in := make([]byte, inodeSize)
	le.PutUint16(in[0:], fileType|uint16(n.mode&0o7777))
	le.PutUint16(in[2:], uint16(n.uid))
	le.PutUint16(in[24:], uint16(n.gid))
	le.PutUint16(in[120:], uint16(n.uid>>16))
	le.PutUint16(in[122:], uint16(n.gid>>16))
	le.PutUint16(in[26:], 1)
	le.PutUint16(in[128:], 32) // the fields beyond 128 bytes
	// All four times are the file's own. Beyond 2038 two more bits of the seconds stand in the extra field.
	low := uint32(n.mtime)
	extra := uint32((n.mtime-int64(int32(low)))>>32) & 3
	for _, at := range []int{8, 12, 16, 144} {
		le.PutUint32(in[at:], low)
	}
	for _, at := range []int{132, 136, 140, 148} {
		le.PutUint32(in[at:], extra)
	}
	return in
}

// putCapabilities stores security.capability behind the inode's fields: one entry, its value at the end, offsets
// counted from the entry.
func putCapabilities(in, caps []byte) {
	const name, start = "capability", 160
	le.PutUint32(in[start:], xattrMagic)
	entries := in[start+4:]
	value := (len(entries) - len(caps)) &^ 3
	entries[0], entries[1] = byte(len(name)), capsIndex
	le.PutUint16(entries[2:], uint16(value))
	le.PutUint32(entries[8:], uint32(len(caps)))
	copy(entries[16:], name)
	copy(entries[value:], caps)
}

// extents notes in an inode where its content is, and writes it. More than four pieces go into blocks of their own.
func (w *ext4Writer) extents(number uint32, in []byte, runs []blockRun, size int64) error {
	le.PutUint32(in[4:], uint32(size))
	le.PutUint32(in[108:], uint32(size>>32))
	le.PutUint32(in[32:], extentsFlag)
	blocks := int64(0)
	for _, r := range runs {
		blocks += int64(r.length)
	}
	const inInode, inBlock = 4, (blockSize - 12) / 12
	root := in[40:100]
	if len(runs) <= inInode {
		putExtents(root, inInode, 0, runs)
	} else {
		extentHeader(root, (len(runs)+inBlock-1)/inBlock, inInode, 1)
		first, at := uint32(0), 12
		for len(runs) > 0 {
			part := runs[:min(len(runs), inBlock)]
			runs = runs[len(part):]
			leaf, err := w.blocks.alloc(1)
			if err != nil {
				return err
			}
			blocks++
			block := make([]byte, blockSize)
			le.PutUint32(root[at:], first)
			le.PutUint32(root[at+4:], leaf[0].start)
			first = putExtents(block, inBlock, first, part)
			at += 12
			if err := w.writeRuns(leaf, block); err != nil {
				return err
			}
		}
	}
	w.sectors(in, blocks)
	return w.writeInode(number, in)
}

func (w *ext4Writer) sectors(in []byte, blocks int64) {
	le.PutUint32(in[28:], uint32(blocks*8))
	le.PutUint16(in[116:], uint16(blocks*8>>32))
}

func extentHeader(b []byte, entries, most, depth int) {
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[2:], uint16(entries))
	le.PutUint16(b[4:], uint16(most))
	le.PutUint16(b[6:], uint16(depth))
}

// putExtents writes a leaf, and returns the number of the block in the file after it.
func putExtents(b []byte, most int, first uint32, runs []blockRun) uint32 {
	extentHeader(b, len(runs), most, 0)
	for i, r := range runs {
		e := b[12+12*i:]
		le.PutUint32(e, first)
		le.PutUint16(e[4:], uint16(r.length))
		le.PutUint32(e[8:], r.start)
		first += r.length
	}
	return first
}

func (w *ext4Writer) writeInode(number uint32, in []byte) error {
	table := w.tables[(number-1)/w.geo.inodesPerGroup]
	at := int64(table)*blockSize + int64((number-1)%w.geo.inodesPerGroup)*inodeSize
	_, err := w.f.WriteAt(in, at)
	return err
}

// resize writes the inode through which the kernel finds the blocks that are reserved for more group descriptors:
// its double indirect block names those after the first descriptors, and each of them names its copies.
func (w *ext4Writer) resize() error {
	const perBlock = blockSize / 4
	double, err := w.blocks.alloc(1)
	if err != nil {
		return err
	}
	index := make([]byte, blockSize)
	copies := int64(0)
	for i := range w.geo.reserved {
		primary := 1 + w.geo.descBlocks + i
		le.PutUint32(index[4*((w.geo.descBlocks+i)%perBlock):], primary)
		block, at := make([]byte, blockSize), 0
		for g := uint32(1); g < w.geo.groups; g++ {
			if backup(g) {
				le.PutUint32(block[at:], g*groupBlocks+primary)
				at += 4
				copies++
			}
		}
		if err := w.writeRuns([]blockRun{{primary, 1}}, block); err != nil {
			return err
		}
	}
	if err := w.writeRuns(double, index); err != nil {
		return err
	}
	in := w.newInode(&node{mode: 0o600}, modeFile)
	size := int64(perBlock*perBlock+perBlock+12) * blockSize
	le.PutUint32(in[4:], uint32(size))
	le.PutUint32(in[108:], uint32(size>>32))
	le.PutUint32(in[40+4*13:], double[0].start)
	w.sectors(in, 1+int64(w.geo.reserved)+copies)
	return w.writeInode(resizeInode, in)
}

// finish writes the bitmaps, the group descriptors and the superblock, and the copies of both.
func (w *ext4Writer) finish() error {
	descriptors := make([]byte, int(w.geo.descBlocks)*blockSize)
	freeBlocks, ipg := uint32(0), w.geo.inodesPerGroup
	for g := range w.geo.groups {
		used := min(max(w.last, g*ipg), (g+1)*ipg) - g*ipg
		inodes := make([]byte, blockSize)
		for i := range uint32(groupBlocks) {
			if i < used || i >= ipg {
				inodes[i/8] |= 1 << (i % 8)
			}
		}
		blocks := w.blocks.used[g*blockSize : (g+1)*blockSize]
		free := uint32(0)
		for _, b := range blocks {
			for i := range 8 {
				if b&(1<<i) == 0 {
					free++
				}
			}
		}
		freeBlocks += free
		if err := errors.Join(w.writeRuns([]blockRun{{w.maps[g], 1}}, blocks), w.writeRuns([]blockRun{{w.maps[g] + 1, 1}}, inodes)); err != nil {
			return err
		}
		d := descriptors[g*descriptorSize:][:descriptorSize]
		le.PutUint32(d, w.maps[g])
		le.PutUint32(d[4:], w.maps[g]+1)
		le.PutUint32(d[8:], w.tables[g])
		le.PutUint16(d[12:], uint16(free))
		le.PutUint16(d[14:], uint16(ipg-used))
		le.PutUint16(d[16:], uint16(w.dirs[g]))
		le.PutUint16(d[18:], 0x4) // its table is all zeros where it is not used: the kernel need not write them
		le.PutUint16(d[28:], uint16(ipg-used))
		crc := crc16(0xffff, []byte(fileSystemUUID))
		crc = crc16(crc, le.AppendUint32(nil, g))
		le.PutUint16(d[30:], crc16(crc, d[:30]))
	}
	for g := range w.geo.groups {
		if !backup(g) {
			continue
		}
		super, at := w.super(g, freeBlocks), int64(g)*groupBlocks*blockSize
		if g == 0 {
			at = 1024
		}
		if _, err := w.f.WriteAt(super, at); err != nil {
			return err
		}
		if _, err := w.f.WriteAt(descriptors, (int64(g)*groupBlocks+1)*blockSize); err != nil {
			return err
		}
	}
	return nil
}

// super is the superblock, as it stands in a group.
func (w *ext4Writer) super(group, freeBlocks uint32) []byte {
	s := make([]byte, 1024)
	for at, value := range map[int]uint32{
		0: w.geo.groups * w.geo.inodesPerGroup, 4: w.geo.blocks(), 12: freeBlocks,
		16: w.geo.groups*w.geo.inodesPerGroup - w.last,
		24: 2, 28: 2, // 1024 << 2 is the size of a block
		32: groupBlocks, 36: groupBlocks, 40: w.geo.inodesPerGroup,
		76: 1, 84: firstInode,
		92: featureCompat, 96: featureIncompat, 100: featureROCompat,
		256: 0xc, // extended attributes and access lists by default
		352: 1,   // hashes of names take them for signed
	} {
		le.PutUint32(s[at:], value)
	}
	for at, value := range map[int]uint16{
		54: 0xffff, 56: ext4Magic, 58: 1, 60: 1, 88: inodeSize, 90: uint16(group),
		206: uint16(w.geo.reserved), 348: 32, 350: 32,
	} {
		le.PutUint16(s[at:], value)
	}
	copy(s[104:], fileSystemUUID)
	copy(s[120:], volumeLabel)
	copy(s[236:], fileSystemUUID) // the seed of hashes
	s[252] = 1                    // half MD4
	s[372] = 4                    // 16 groups are handled together
	return s
}
