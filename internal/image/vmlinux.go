package image

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxKernel bounds what a compressed kernel may unpack to.
const maxKernel = 512 << 20

// vmlinux takes the kernel proper, an ELF file, out of a bzImage. Booting it directly (PVH) saves the guest the
// unpacking, which is 0.2 s under emulation, and Firecracker takes no other form. The payload's place is in the
// setup header: https://docs.kernel.org/arch/x86/boot.html, payload_offset and payload_length.
func vmlinux(bzImage []byte) ([]byte, error) {
	if len(bzImage) < 0x250 || string(bzImage[0x202:0x206]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	sectors := int64(bzImage[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	offset := int64(binary.LittleEndian.Uint32(bzImage[0x248:])) + (sectors+1)*512
	length := int64(binary.LittleEndian.Uint32(bzImage[0x24c:]))
	if offset+length > int64(len(bzImage)) || length < 8 {
		return nil, errors.New("payload outside the file")
	}
	kernel, err := unpack(bzImage[offset : offset+length])
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(kernel, []byte("\x7fELF")) {
		return nil, errors.New("the payload is not an ELF file")
	}
	return kernel, nil
}

// unpack undoes the compressions that distributions use for kernels, each known by its first bytes. What follows
// the compressed stream (the kernel's build appends its size) is ignored.
func unpack(payload []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}):
		return unpackLZ4(payload[4:])
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(bytes.NewReader(payload[:len(payload)-4]), zstd.WithDecoderMaxMemory(maxKernel), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return io.ReadAll(io.LimitReader(d, maxKernel))
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		d, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		d.Multistream(false)
		return io.ReadAll(io.LimitReader(d, maxKernel))
	default:
		return nil, fmt.Errorf("unknown compression %x", payload[:4])
	}
}

// unpackLZ4 reads LZ4's legacy frame after its magic number: blocks of a length and data, of 8 MiB each when
// unpacked, until the end or something that cannot be a length.
// https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md#legacy-frame
func unpackLZ4(frame []byte) ([]byte, error) {
	const blockSize = 8 << 20
	var out []byte
	for len(frame) > 4 {
		length := int64(binary.LittleEndian.Uint32(frame))
		if length == 0 || length > int64(len(frame)-4) {
			break
		}
		block, err := unpackLZ4Block(frame[4:4+length], blockSize)
		if err != nil {
			return nil, err
		}
		out = append(out, block...)
		if len(out) > maxKernel {
			return nil, errors.New("lz4: too large")
		}
		frame = frame[4+length:]
	}
	return out, nil
}

var errLZ4 = errors.New("lz4: damaged block")

// unpackLZ4Block reads one block: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md.
func unpackLZ4Block(in []byte, limit int) ([]byte, error) {
	out := make([]byte, 0, limit)
	length := func(n int) (int, bool) { // 15 means that more bytes add to it, until one is not 255
		if n != 15 {
			return n, true
		}
		for {
			if len(in) == 0 {
				return 0, false
			}
			more := in[0]
			in = in[1:]
			if n += int(more); n > limit {
				return 0, false
			}
			if more != 255 {
				return n, true
			}
		}
	}
	for len(in) > 0 {
		token := in[0]
		in = in[1:]
		literals, ok := length(int(token >> 4))
		if !ok || literals > len(in) || len(out)+literals > limit {
			return nil, errLZ4
		}
		out = append(out, in[:literals]...)
		if in = in[literals:]; len(in) == 0 {
			return out, nil // the last sequence has literals only
		}
		if len(in) < 2 {
			return nil, errLZ4
		}
		back := int(binary.LittleEndian.Uint16(in))
		in = in[2:]
		match, ok := length(int(token & 15))
		match += 4
		if !ok || back == 0 || back > len(out) || len(out)+match > limit {
			return nil, errLZ4
		}
		for range match { // byte by byte: a match may overlap what it makes
			out = append(out, out[len(out)-back])
		}
	}
	return out, nil
}
