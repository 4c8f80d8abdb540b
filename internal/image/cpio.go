package image

import (
	"fmt"
	"io"
	"sort"
)

// Entry is a file, directory or device of an initial RAM disk.
type Entry struct {
	Path         string // without a leading slash
	Mode         uint32 // type and permissions as in stat(2)
	Major, Minor uint32 // of a device
	Data         []byte
}

// The types in Entry.Mode.
const (
	TypeDir  = 0o040000
	TypeFile = 0o100000
	TypeChar = 0o020000
)

// WriteCPIO writes an archive in the newc format, which the kernel unpacks into its initial RAM disk:
// https://docs.kernel.org/driver-api/early-userspace/buffer-format.html. It is the same for the same entries.
func WriteCPIO(w io.Writer, entries []Entry) error {
	entries = append([]Entry(nil), entries...)
	sort.SliceStable(entries, func(i, j int) bool { return entries[i].Path < entries[j].Path }) // a directory before what is in it
	c := cpioWriter{w: w}
	for n, e := range entries {
		c.entry(uint32(n+1), e)
	}
	c.entry(0, Entry{Path: "TRAILER!!!"})
	if rest := c.n % 512; rest != 0 {
		c.write(make([]byte, 512-rest))
	}
	return c.err
}

type cpioWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *cpioWriter) entry(inode uint32, e Entry) {
	links := uint32(1)
	if e.Mode&TypeDir == TypeDir {
		links = 2
	}
	c.write([]byte("070701"))
	for _, field := range []uint32{
		inode, e.Mode, 0, 0, links, 0, uint32(len(e.Data)), 0, 0, e.Major, e.Minor, uint32(len(e.Path) + 1), 0,
	} {
		c.write(fmt.Appendf(nil, "%08X", field))
	}
	c.write(append([]byte(e.Path), 0))
	c.pad()
	c.write(e.Data)
	c.pad()
}

func (c *cpioWriter) pad() {
	if rest := c.n % 4; rest != 0 {
		c.write(make([]byte, 4-rest))
	}
}

func (c *cpioWriter) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.err = err
}
