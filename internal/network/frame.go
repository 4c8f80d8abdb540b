package network

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// QEMU's stream netdev puts the length of each frame before it, four bytes, big endian.
// Source: net/stream.c and net/net.h (NET_BUFSIZE) of QEMU.
const (
	lengthSize = 4
	qemuMax    = 4096 + 65536 // QEMU never sends more in one frame
	readBuffer = 256 << 10
)

// errFrameTooLong says that the other end is not QEMU, or lost its place; nothing after it can be believed.
var errFrameTooLong = errors.New("a frame is longer than QEMU can send")

// frameReader cuts the stream into frames. It allocates at most one frame of at most max bytes at a time,
// whatever lengths the stream claims.
type frameReader struct {
	r   *bufio.Reader
	max int
	bad func() // called for each frame that is skipped
}

func newFrameReader(r io.Reader, max int, bad func()) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, readBuffer), max: max, bad: bad}
}

// next is the next frame that has at least an Ethernet header and at most max bytes. Others are skipped. The
// caller owns the view.
func (f *frameReader) next() (*buffer.View, error) {
	for {
		head, err := f.r.Peek(lengthSize)
		if err != nil {
			return nil, err
		}
		size := binary.BigEndian.Uint32(head)
		if size > qemuMax {
			return nil, fmt.Errorf("%w: %d bytes", errFrameTooLong, size)
		}
		if _, err := f.r.Discard(lengthSize); err != nil {
			return nil, err
		}
		if size < header.EthernetMinimumSize || int(size) > f.max {
			f.bad()
			if _, err := f.r.Discard(int(size)); err != nil {
				return nil, err
			}
			continue
		}
		frame := buffer.NewViewSize(int(size))
		if _, err := io.ReadFull(f.r, frame.AsSlice()); err != nil {
			frame.Release()
			return nil, err
		}
		return frame, nil
	}
}

func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}
