package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/firerunner/firerunner"
)

// maxLayers bounds the layers of one image; Docker itself makes at most 127.
const maxLayers = 512

// resolve asks for what a reference is now.
func (c *connection) resolve(ref name.Reference) (*remote.Descriptor, error) {
	return remote.Get(ref, append(c.options, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))...)
}

// layers returns an image's layers, the lowest first, after a look at how much they claim to be.
func (c *connection) layers(img v1.Image) ([]v1.Layer, error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	if len(m.Layers) > maxLayers {
		return nil, firerunner.Errorf(firerunner.Exhausted, "%d layers; at most %d are read", len(m.Layers), maxLayers)
	}
	total := int64(0)
	for _, l := range m.Layers {
		if l.Size < 0 || l.Size > c.Limit-total {
			return nil, firerunner.Errorf(firerunner.Exhausted, "its layers are larger than %d MiB", c.Limit>>20)
		}
		total += l.Size
	}
	return img.Layers()
}

// tree downloads an image's layers into dir, one at a time, and lays them over one another.
func (c *connection) tree(ctx context.Context, img v1.Image, dir string, contents *spool, tell func(detail string)) (*tree, error) {
	layers, err := c.layers(img)
	if err != nil {
		return nil, err
	}
	flat := newFlattener(contents)
	for i, l := range layers {
		path := filepath.Join(dir, fmt.Sprintf("layer-%d", i))
		size, err := c.download(ctx, l, path)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		tell(fmt.Sprintf("layer %d of %d, %d MiB", i+1, len(layers), (size+1<<19)>>20))
		if err := flat.addFile(ctx, path); err != nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "layer %d: %w", i+1, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return flat.tree, nil
}

// addFile adds a layer that is in a file, compressed or not.
func (f *flattener) addFile(ctx context.Context, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	plain, err := decompressed(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	return f.add(ctx, plain)
}

// download fetches a layer into a file. It is complete, and what its digest says, or there is an error. What broke
// off is tried again from the start.
func (c *connection) download(ctx context.Context, l v1.Layer, path string) (int64, error) {
	pause := c.Pause
	for try := 1; ; try++ {
		n, err := downloadOnce(l, path)
		if err == nil {
			return n, nil
		}
		if ctx.Err() != nil {
			return 0, errors.Join(context.Cause(ctx), err)
		}
		if try == tries || !passing(err) && !errors.Is(err, errShort) {
			return 0, err
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return 0, context.Cause(ctx)
		case <-wait.C:
		}
		pause *= 2
	}
}

var errShort = errors.New("it broke off")

func downloadOnce(l v1.Layer, path string) (int64, error) {
	size, err := l.Size()
	if err != nil {
		return 0, err
	}
	from, err := l.Compressed() // which compares size and digest at its end
	if err != nil {
		return 0, err
	}
	defer from.Close()
	to, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil && n < size {
		err = errors.Join(errShort, err)
	}
	return n, err
}
