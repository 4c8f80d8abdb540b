package image

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// fileLayer is a compressed layer in a file.
type fileLayer struct {
	path           string
	digest, diffID v1.Hash
	size           int64
}

// writeLayer compresses what write writes into a file of that directory, which it names by its digest. Gzip is what
// every containerd unpacks; its header has neither time nor name.
func writeLayer(ctx context.Context, dir string, write func(io.Writer) error) (*fileLayer, error) {
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return nil, err
	}
	packed, plain := sha256.New(), sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(f, packed), 1<<20)
	gz := gzip.NewWriter(buffered)
	err = write(io.MultiWriter(whileLive{ctx}, gz, plain))
	err = errors.Join(err, gz.Close(), buffered.Flush())
	info, statErr := f.Stat()
	if err = errors.Join(err, statErr, f.Chmod(0o644), f.Close()); err != nil {
		return nil, err
	}
	hash := func(sum []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)} }
	l := &fileLayer{digest: hash(packed.Sum(nil)), diffID: hash(plain.Sum(nil)), size: info.Size()}
	l.path = filepath.Join(dir, l.digest.Hex)
	return l, os.Rename(f.Name(), l.path)
}

// whileLive refuses to write once its context has ended.
type whileLive struct{ ctx context.Context }

func (w whileLive) Write(b []byte) (int, error) { return len(b), context.Cause(w.ctx) }

// Digest is that of the compressed bytes.
func (l *fileLayer) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID is the digest of the tar file.
func (l *fileLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// Compressed opens the file.
func (l *fileLayer) Compressed() (io.ReadCloser, error) { return os.Open(l.path) }

// Uncompressed opens the tar file that is in it.
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	plain, err := decompressed(f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{plain, f}, nil
}

// Size is in bytes, compressed.
func (l *fileLayer) Size() (int64, error) { return l.size, nil }

// MediaType is OCI's layer.
func (l *fileLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }

// maxWindow bounds the memory that unpacking a foreign layer takes, in bytes.
const maxWindow = 128 << 20

// decompressed undoes the compression of a layer, which its first bytes tell, whatever its media type says.
func decompressed(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return gzip.NewReader(in)
	case string(head) == "\x28\xb5\x2f\xfd":
		d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}
