package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// fileSHA256 is a file's SHA-256 in hexadecimal.
func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sparseBlock is the unit of sparseSHA256.
const sparseBlock = 64 << 10

// sparseSHA256 is a digest of a file that is mostly holes: SHA-256 over the file's length and, for each block of
// 64 KiB that is not all zeros, its offset and its bytes (all numbers 64 bits, little-endian). It is the same
// however much of the file is really stored, and reads only that much.
func sparseSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	number := func(n int64) { h.Write(binary.LittleEndian.AppendUint64(nil, uint64(n))) }
	number(info.Size())
	block, zeros := make([]byte, sparseBlock), make([]byte, sparseBlock)
	for offset := int64(0); offset < info.Size(); {
		data, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing but a hole up to the end
		}
		if err == nil {
			offset = data / sparseBlock * sparseBlock
		} // else: a file system that does not know; then read everything
		n, err := f.ReadAt(block, offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			number(offset)
			h.Write(block[:n])
		}
		offset += sparseBlock
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// allocated is how much of a file is really stored, in bytes.
func allocated(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	return st.Blocks * 512, nil
}
