package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/firerunner/firerunner"
)

// The files in a kernel image, as hosts name them to Flintlock (Kernel.filename, Initrd.filename).
const (
	KernelFilename = "boot/vmlinux" // an ELF file: Firecracker boots no other
	InitrdFilename = "boot/initrd"
)

// Labels of our container images, which are annotations of their manifests too.
const (
	labelPrefix   = "io.github.firerunner."
	labelImage    = labelPrefix + "image"        // digest of the local image
	labelKernel   = labelPrefix + "kernel-image" // of a root file system: the digest of its kernel image, in the same repository
	labelManifest = labelPrefix + "manifest"     // of a root file system: the image's manifest
	labelKernelAt = labelPrefix + "kernel-file"
	labelInitrdAt = labelPrefix + "initrd-file"
	labelCmdline  = labelPrefix + "cmdline"

	refName    = "org.opencontainers.image.ref.name"
	kernelName = "kernel"
	rootfsName = "rootfs"
	ociDir     = "oci"
)

// Pair is an image as two container images: one with the kernel and its initial RAM disk as files, and one whose
// layer is the root file system.
type Pair struct {
	Image  string // digest of the local image
	Dir    string // an OCI image layout that has both
	Kernel string // digest of the kernel image: sha256:...
	RootFS string // digest of the root file system image
}

// Pair returns an image as container images; ref is as for Resolve. They are made when they are first asked for and
// then kept beside the image. The same image is always the same pair: no time, no name and no machine has a say.
func (s *Store) Pair(ctx context.Context, ref string, progress func(Progress)) (Pair, error) {
	digest, _, err := s.find(ref)
	if err != nil {
		return Pair{}, err
	}
	m, err := s.inspect(digest)
	if err != nil {
		return Pair{}, err
	}
	dir := filepath.Join(s.imageDir(digest), ociDir)
	if p, err := readPair(dir, digest); err == nil {
		return p, nil
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	scratchDir, remove, err := scratch(ctx, s.tmp())
	if err != nil {
		return Pair{}, err
	}
	defer remove()
	maker := pairMaker{image: s.imageDir(digest), manifest: m, dir: filepath.Join(scratchDir, ociDir), progress: progress}
	if err := maker.make(ctx); err != nil {
		return Pair{}, firerunner.Errorf(firerunner.CodeOf(err), "make container images of %s: %w", short(digest), err)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Pair{}, err
	}
	defer unlock()
	if err := os.Rename(maker.dir, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return Pair{}, firerunner.Errorf(firerunner.Unavailable, "keep the container images of %s: %w", short(digest), err)
	}
	return readPair(dir, digest)
}

func readPair(dir, image string) (Pair, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return Pair{}, firerunner.Errorf(firerunner.Unavailable, "read the container images: %w", err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return Pair{}, firerunner.Errorf(firerunner.Internal, "read the container images: %w", err)
	}
	p := Pair{Image: image, Dir: dir}
	for _, d := range m.Manifests {
		switch d.Annotations[refName] {
		case kernelName:
			p.Kernel = d.Digest.String()
		case rootfsName:
			p.RootFS = d.Digest.String()
		}
	}
	if p.Kernel == "" || p.RootFS == "" {
		return Pair{}, firerunner.Errorf(firerunner.Internal, "read the container images in %s: one is missing", dir)
	}
	return p, nil
}

// pairMaker makes one pair.
type pairMaker struct {
	image    string // the local form
	manifest *Manifest
	dir      string // the layout to make
	progress func(Progress)
}

func (p *pairMaker) make(ctx context.Context) error {
	at, err := layout.Write(p.dir, empty.Index)
	if err == nil {
		err = os.MkdirAll(filepath.Join(p.dir, "blobs", "sha256"), 0o755)
	}
	if err != nil {
		return err
	}
	labels := map[string]string{
		labelImage: p.manifest.Digest, labelKernelAt: KernelFilename, labelInitrdAt: InitrdFilename, labelCmdline: p.manifest.Cmdline,
	}
	kernel, err := p.container(ctx, at, kernelName, labels, p.writeKernel)
	if err != nil {
		return err
	}
	portable, err := p.manifest.portable()
	if err != nil {
		return err
	}
	_, err = p.container(ctx, at, rootfsName, map[string]string{
		labelImage: p.manifest.Digest, labelKernel: kernel.String(), labelManifest: string(portable),
	}, p.writeRootFS)
	return err
}

// portable is what of a manifest goes with the image to other machines: nothing of this one, of now, or of its name.
func (m *Manifest) portable() ([]byte, error) {
	c := *m
	c.Recipe.Name, c.BuiltAt, c.SizeBytes = "", time.Time{}, 0
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(c)
	return bytes.TrimSpace(b.Bytes()), err
}

// container makes a container image of one layer and adds it to the layout.
func (p *pairMaker) container(ctx context.Context, at layout.Path, name string, labels map[string]string, write func(io.Writer) error) (v1.Hash, error) {
	began := time.Now()
	step := "container image " + name
	p.progress(Progress{Step: step})
	layer, err := writeLayer(ctx, filepath.Join(p.dir, "blobs", "sha256"), write)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("%s: %w", step, err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Labels: labels}})
	if err == nil {
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{CreatedBy: "firerunner"}})
	}
	if err != nil {
		return v1.Hash{}, err
	}
	shown := map[string]string{}
	for key, value := range labels {
		if key != labelManifest { // too long for an annotation
			shown[key] = value
		}
	}
	img = mutate.Annotations(img, shown).(v1.Image)
	if err := at.AppendImage(img, layout.WithAnnotations(map[string]string{refName: name})); err != nil {
		return v1.Hash{}, err
	}
	digest, err := img.Digest()
	p.progress(Progress{Step: step, Detail: fmt.Sprintf("%s, %d MiB", short(digest.String()), (layer.size+1<<19)>>20), Done: true, Elapsed: time.Since(began)})
	return digest, err
}

// writeKernel writes the layer of the kernel image.
func (p *pairMaker) writeKernel(w io.Writer) error {
	t := newTree()
	if err := t.directory("boot", 0o755, 0); err != nil {
		return err
	}
	for name, from := range map[string]string{KernelFilename: kernelFile, InitrdFilename: initrdFile} {
		info, err := os.Stat(filepath.Join(p.image, from))
		if err != nil {
			return err
		}
		n := &node{mode: 0o644, size: info.Size(), content: diskFile(filepath.Join(p.image, from))}
		if from == kernelFile {
			if head, err := io.ReadAll(io.LimitReader(n.content.open(), 4)); err != nil || string(head) != "\x7fELF" {
				return errors.Join(err, firerunner.Errorf(firerunner.Conflict, "the kernel is not an ELF file, and Firecracker boots no other").
					WithHint("build the image from another kernel package"))
			}
		}
		if err := t.set(name, n); err != nil {
			return err
		}
	}
	return writeTar(w, t)
}

// writeRootFS writes the layer of the root file system image.
func (p *pairMaker) writeRootFS(w io.Writer) error {
	if p.manifest.RootFormat != rootFormat {
		return firerunner.Errorf(firerunner.Conflict, "the image was built by an older version").
			WithHint("firerunner image build builds it anew; its packages are kept")
	}
	f, err := os.Open(filepath.Join(p.image, rootfsFile))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	t, err := readExt4(f, info.Size())
	if err != nil {
		return err
	}
	return writeTar(w, t)
}
