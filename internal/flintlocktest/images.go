package flintlocktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
)

// ImageSource is where a host gets container images from. Both methods ask the registry each time, as flintlockd does
// for every create; what they return is shared by all machines and never written to.
type ImageSource interface {
	// File returns a file of the image, such as a kernel, as a path on this host.
	File(ctx context.Context, ref, filename string) (path string, err error)
	// Disk returns the image's file system as an ext4 disk image.
	Disk(ctx context.Context, ref string) (path string, err error)
}

// Registry is an ImageSource that pulls. Registries at localhost and 127.* are spoken to in plain HTTP, others not
// unless they are listed. Several servers, also of several processes, may share one CacheDir.
type Registry struct {
	// CacheDir keeps what was pulled, by digest. Required; the caller removes it.
	CacheDir string
	// Insecure lists more registries (host:port) that speak plain HTTP.
	Insecure []string
	// VolumeMiB is the size of every disk, as flintlockd's thin pool has one size for all; default 4096. It is sparse.
	VolumeMiB int
	// MaxBytes and MaxFiles bound an unpacked image; default 4 GiB and 500,000.
	MaxBytes int64
	MaxFiles int
	// Transport carries the requests; default http.DefaultTransport.
	Transport http.RoundTripper
}

// File implements ImageSource.
func (r *Registry) File(ctx context.Context, ref, filename string) (string, error) {
	dir, err := r.cached(ctx, ref, "tree", func(img v1.Image, scratch string) error {
		_, err := r.unpack(img, scratch)
		return err
	})
	if err != nil {
		return "", err
	}
	t, err := openTree(dir, 0, 0)
	if err != nil {
		return "", err
	}
	defer t.root.Close()
	path, err := t.file(filename)
	if err != nil {
		return "", fmt.Errorf("looking for %s in image %s: %w", filename, ref, err)
	}
	return filepath.Join(dir, path), nil
}

// Disk implements ImageSource.
func (r *Registry) Disk(ctx context.Context, ref string) (string, error) {
	kind := fmt.Sprintf("disk-%d", r.volumeMiB())
	dir, err := r.cached(ctx, ref, kind, func(img v1.Image, scratch string) error {
		tree := filepath.Join(scratch, "tree")
		if err := os.Mkdir(tree, 0o755); err != nil {
			return err
		}
		owners, err := r.unpack(img, tree)
		if err != nil {
			return err
		}
		if err := makeExt4(ctx, tree, filepath.Join(scratch, "disk.ext4"), r.volumeMiB()); err != nil {
			return err
		}
		if err := setOwners(ctx, filepath.Join(scratch, "disk.ext4"), owners); err != nil {
			return err
		}
		return os.RemoveAll(tree)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "disk.ext4"), nil
}

// cached pulls the image that ref stands for now and returns the folder that fill made of it, now or earlier. A crash
// leaves a folder with a name of its own, which the next try of the same image removes.
func (r *Registry) cached(ctx context.Context, ref, kind string, fill func(img v1.Image, scratch string) error) (string, error) {
	img, err := r.pull(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("pulling image %s: %w", ref, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("pulling image %s: %w", ref, err)
	}
	dir := filepath.Join(r.CacheDir, digest.Algorithm+"-"+digest.Hex+"-"+kind)
	if err := os.MkdirAll(r.CacheDir, 0o700); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("waiting for another pull of image %s: %w", ref, err)
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	scratch := dir + ".new"
	if err := os.RemoveAll(scratch); err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return "", err
	}
	if err := fill(img, scratch); err != nil {
		return "", fmt.Errorf("unpacking image %s: %w", ref, err)
	}
	return dir, os.Rename(scratch, dir)
}

// pull asks the registry what ref is. Layers are fetched when they are read, and checked against their digests.
func (r *Registry) pull(ctx context.Context, ref string) (v1.Image, error) {
	var options []name.Option
	host, _, _ := strings.Cut(ref, "/")
	for _, insecure := range r.Insecure {
		if host == insecure {
			options = append(options, name.Insecure)
		}
	}
	parsed, err := name.ParseReference(ref, options...)
	if err != nil {
		return nil, err
	}
	fetch := []remote.Option{remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"})}
	if r.Transport != nil {
		fetch = append(fetch, remote.WithTransport(r.Transport))
	}
	return remote.Image(parsed, fetch...)
}

// unpack lays an image's layers on top of each other. It returns the owners that only root could give to files here.
func (r *Registry) unpack(img v1.Image, dir string) (map[string]owned, error) {
	maxBytes, maxFiles := r.MaxBytes, r.MaxFiles
	if maxBytes == 0 {
		maxBytes = 4 << 30
	}
	if maxFiles == 0 {
		maxFiles = 500_000
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	t, err := openTree(dir, maxBytes, maxFiles)
	if err != nil {
		return nil, err
	}
	defer t.root.Close()
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			return nil, err
		}
		err = t.apply(content)
		if err == nil {
			// What follows the archive is read too: only at the end is the layer's digest compared.
			_, err = io.Copy(io.Discard, io.LimitReader(content, 1<<20))
		}
		content.Close()
		if err != nil {
			return nil, err
		}
	}
	return t.owned, t.finish()
}

func (r *Registry) volumeMiB() int {
	if r.VolumeMiB == 0 {
		return 4096
	}
	return r.VolumeMiB
}

// lockEvery is how often a lock that another process holds is tried again: the kernel wakes nobody who also wants to
// be able to give up.
const lockEvery = 50 * time.Millisecond

// lockFile takes a file lock, which ends with the process that holds it.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, err
		}
		again := time.NewTimer(lockEvery)
		select {
		case <-ctx.Done():
			again.Stop()
			f.Close()
			return nil, context.Cause(ctx)
		case <-again.C:
		}
	}
}
