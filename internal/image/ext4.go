package image

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// An ext4 file system is written by ourselves, and always the same way: the same tree is the same bytes on every
// machine, so that an image that went through a registry is the image that it was. mkfs.ext4 puts random numbers and
// times into it, and needs to seem to be root. The format: https://docs.kernel.org/filesystems/ext4/index.html
//
// The file system has no journal (its disk lives as long as one job), blocks of 4 KiB, and room in its descriptors
// to grow to 1 TiB while it is mounted.
const (
	blockSize      = 4096
	groupBlocks    = 8 * blockSize // blocks per group: what one block of bitmap holds
	inodeSize      = 256
	leastInodes    = 8192 // per group
	descriptorSize = 32
	maxGroups      = 64 * blockSize / descriptorSize // 1 TiB; the descriptors of that are reserved
	firstInode     = 11                              // the first that is not reserved; lost+found has it by custom
	rootInode      = 2
	resizeInode    = 7
	ext4Magic      = 0xef53
	extentMagic    = 0xf30a
	xattrMagic     = 0xea020000
	extentsFlag    = 0x80000
	maxExtent      = 32768 // blocks of one extent
	maxCaps        = 64    // bytes of capabilities; they have 24
	capsIndex      = 6     // "security." in the table of prefixes
	fileSystemUUID = "\x1e\x8f\x0b\x5c\x9a\x5d\x4b\x3e\x8c\x11\xf1\x4e\x27\x6b\x00\x01"
	volumeLabel    = "root"
)

// Features of our file system.
const (
	featureCompat   = 0x8 | 0x10 | 0x20                     // extended attributes, resize inode, indexed directories
	featureIncompat = 0x2 | 0x40 | 0x200                    // file types in directories, extents, flexible groups
	featureROCompat = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40  // sparse super, large and huge files, checksums of groups, many links, large inodes
	knownIncompat   = featureIncompat | 0x4 | 0x80 | 0x2000 // what we can read besides: recovery not, 64 bit, seeded checksums
	inlineFlags     = 0x10000000 | 0x800 | 0x4              // inline data, encrypted, compressed: not read
)

// Types in an inode's mode, and in a directory entry.
const (
	modePipe, modeDir, modeFile, modeLink     = 0x1000, 0x4000, 0x8000, 0xa000
	modeType                                  = 0xf000
	entryFile, entryDir, entryPipe, entryLink = 1, 2, 5, 7
)

var le = binary.LittleEndian

// run is a piece of a file: length blocks from start on disk.
type blockRun struct{ start, length uint32 }

// geometry is where things are.
type geometry struct {
	groups         uint32
	inodesPerGroup uint32
	descBlocks     uint32 // of the group descriptors in use
	reserved       uint32 // blocks after them for more
}

func (g geometry) blocks() uint32      { return g.groups * groupBlocks }
func (g geometry) tableBlocks() uint32 { return g.inodesPerGroup * inodeSize / blockSize }

// backup reports whether a group has a copy of the superblock: 0, 1, and powers of 3, 5 and 7.
func backup(group uint32) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []uint32{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// plan chooses a geometry with room for inodes and blocks of data, and free bytes besides.
func plan(inodes, dataBlocks, freeBlocks int64) (geometry, error) {
	const slack = 4096 // inodes, at least, for the job's files
	for groups := uint32(1); groups <= maxGroups; groups++ {
		g := geometry{groups: groups, inodesPerGroup: leastInodes}
		g.descBlocks = (groups*descriptorSize + blockSize - 1) / blockSize
		g.reserved = maxGroups*descriptorSize/blockSize - g.descBlocks
		perBlock := uint32(blockSize / inodeSize)
		if need := (inodes + inodes/4 + slack + int64(groups) - 1) / int64(groups); need > leastInodes {
			if need > groupBlocks {
				continue
			}
			g.inodesPerGroup = (uint32(need) + perBlock - 1) / perBlock * perBlock
		}
		copies := int64(0)
		for i := range groups {
			if backup(i) {
				copies++
			}
		}
		// What the groups need for themselves; one for the resize inode, and a few that a table may leave unused
		// where it does not fit before a copy.
		own := copies*int64(1+g.descBlocks+g.reserved) + int64(groups)*int64(2+g.tableBlocks()) + 1 + int64(g.tableBlocks())*copies
		if own+dataBlocks+freeBlocks <= int64(g.blocks()) {
			return g, nil
		}
	}
	return geometry{}, errors.New("more than fits into 1 TiB")
}

// crc16 is the checksum of group descriptors: CRC-16 with the polynomial 0x8005, reflected.
func crc16(crc uint16, data []byte) uint16 {
	for _, b := range data {
		crc ^= uint16(b)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

// allocator hands out blocks in ascending order, past those that are taken.
type allocator struct {
	used   []byte // a bit for each block
	next   uint32
	blocks uint32
}

func newAllocator(blocks uint32) *allocator {
	return &allocator{used: make([]byte, blocks/8), blocks: blocks}
}

func (a *allocator) taken(block uint32) bool { return a.used[block/8]&(1<<(block%8)) != 0 }

func (a *allocator) take(start, length uint32) {
	for b := start; b < start+length; b++ {
		a.used[b/8] |= 1 << (b % 8)
	}
}

var errNoBlocks = errors.New("no free block where there should be one")

// alloc returns n blocks in as few runs as there can be.
func (a *allocator) alloc(n int64) ([]blockRun, error) {
	var runs []blockRun
	for n > 0 {
		for a.next < a.blocks && a.taken(a.next) {
			a.next++
		}
		if a.next >= a.blocks {
			return nil, errNoBlocks
		}
		r := blockRun{start: a.next}
		for n > 0 && r.length < maxExtent && a.next < a.blocks && !a.taken(a.next) {
			r.length++
			a.next++
			n--
		}
		a.take(r.start, r.length)
		runs = append(runs, r)
	}
	return runs, nil
}

// contiguous returns the start of n blocks in one piece.
func (a *allocator) contiguous(n uint32) (uint32, error) {
	for a.next < a.blocks && a.taken(a.next) {
		a.next++
	}
	start, length := a.next, uint32(0)
	for b := a.next; b < a.blocks; b++ {
		if a.taken(b) {
			start, length = b+1, 0
			continue
		}
		if length++; length == n {
			a.take(start, n)
			return start, nil
		}
	}
	return 0, fmt.Errorf("%w: %d in one piece", errNoBlocks, n)
}
