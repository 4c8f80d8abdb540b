package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/firerunner/firerunner"
)

// Pulled is an image that came from a registry.
type Pulled struct {
	firerunner.Image
	From string // the root file system image that it was, by digest
}

const maxManifest = 8 << 20 // bytes of the manifest in a label

// Pull brings an image that Push has uploaded back into the store, under that name. It is made again from the two
// container images, and must come out as the very image that it was: another byte anywhere, and it is refused.
func (g Registry) Pull(ctx context.Context, images *Store, ref, as string, progress func(Progress)) (Pulled, error) {
	if !names.MatchString(as) {
		return Pulled{}, firerunner.Errorf(firerunner.Invalid, "pull as %q: the name is not of lower-case letters, digits, and . _ -", as)
	}
	c, err := g.connect(ctx, ref)
	if err != nil {
		return Pulled{}, err
	}
	defer c.close()
	if progress == nil {
		progress = func(Progress) {}
	}
	p := &puller{run: run{Builder: Builder{Store: images, Now: c.Now}, progress: progress}, c: c, name: as}
	var remove func()
	if p.dir, remove, err = scratch(ctx, images.tmp()); err != nil {
		return Pulled{}, err
	}
	defer remove()
	pulled, err := p.pull(ctx)
	if err != nil {
		return Pulled{}, c.fail("pull", err)
	}
	return pulled, nil
}

// puller is one pull.
type puller struct {
	run
	c    *connection
	name string
}

func (p *puller) pull(ctx context.Context) (Pulled, error) {
	found, err := p.c.resolve(p.c.ref)
	if err != nil {
		return Pulled{}, err
	}
	pinned := p.c.ref.Context().Digest(found.Digest.String())
	rootfs, err := found.Image()
	if err != nil {
		return Pulled{}, err
	}
	m, kernelDigest, err := readLabels(rootfs)
	if err != nil {
		return Pulled{}, err
	}
	m.Recipe.Name = p.name
	p.recipe = m.Recipe
	if here, err := p.Store.inspect(m.Digest); err == nil && here.Digest == m.Digest {
		img, err := p.rename(ctx, here)
		return Pulled{img, pinned.Name()}, err
	}
	out := filepath.Join(p.dir, "image")
	if err := os.Mkdir(out, 0o755); err != nil {
		return Pulled{}, err
	}
	if err := p.pullKernel(ctx, p.c.ref.Context().Digest(kernelDigest), out); err != nil {
		return Pulled{}, fmt.Errorf("kernel image %s: %w", short(kernelDigest), err)
	}
	if err := p.pullRootFS(ctx, rootfs, out); err != nil {
		return Pulled{}, err
	}
	claimed := m.Digest
	if err := m.measure(out); err != nil {
		return Pulled{}, err
	}
	if m.Digest != claimed {
		return Pulled{}, firerunner.Errorf(firerunner.Invalid, "what came is image %s, not %s as it says", short(m.Digest), short(claimed)).
			WithHint("it was changed on the way, or pushed by a version that writes file systems in another way")
	}
	m.BuiltAt = p.Now().UTC()
	if err := writeJSON(filepath.Join(out, manifestFile), m); err != nil {
		return Pulled{}, err
	}
	if ctx.Err() != nil {
		return Pulled{}, context.Cause(ctx)
	}
	img, err := p.Store.install(ctx, out, m)
	return Pulled{img, pinned.Name()}, err
}

// rename gives an image that is here already the name that was asked for.
func (p *puller) rename(ctx context.Context, m *Manifest) (firerunner.Image, error) {
	unlock, err := p.Store.lock(ctx)
	if err != nil {
		return firerunner.Image{}, err
	}
	defer unlock()
	if _, err := os.Stat(p.Store.imageDir(m.Digest)); err != nil {
		return firerunner.Image{}, firerunner.Errorf(firerunner.Unavailable, "image %s was removed this moment: %w", short(m.Digest), err)
	}
	p.progress(Progress{Step: "image", Detail: short(m.Digest) + " is there already", Done: true})
	return m.image(p.Store.imageDir(m.Digest), p.name), p.Store.name(p.name, m.Digest)
}

// readLabels reads the image's manifest out of its root file system's labels. They are foreign: what is used of them
// is checked, and nothing in them may do something to a terminal.
func readLabels(img v1.Image) (*Manifest, string, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, "", err
	}
	labels := config.Config.Labels
	text, kernel := labels[labelManifest], labels[labelKernel]
	if text == "" || kernel == "" {
		return nil, "", firerunner.Errorf(firerunner.Invalid, "it is not an image that firerunner has pushed").
			WithHint("firerunner image build --from makes an image of any container image")
	}
	m, err := decodeManifest([]byte(text))
	if err != nil {
		return nil, "", firerunner.Errorf(firerunner.Invalid, "its manifest: %w", err)
	}
	if _, err := v1.NewHash(kernel); err != nil {
		return nil, "", firerunner.Errorf(firerunner.Invalid, "its kernel image: %w", err)
	}
	return m, kernel, nil
}

func decodeManifest(text []byte) (*Manifest, error) {
	if len(text) > maxManifest {
		return nil, errors.New("too large")
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	var all any
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	switch {
	case !printable(all):
		return nil, errors.New("control characters")
	case !hexSHA.MatchString(trimDigest(m.Digest)) || m.Digest != digestPrefix+trimDigest(m.Digest):
		return nil, errors.New("its digest is not one")
	case m.Recipe.DiskMiB < leastDiskMiB || m.Recipe.DiskMiB > mostDiskMiB:
		return nil, fmt.Errorf("a disk of %d MiB", m.Recipe.DiskMiB)
	case m.RootFormat != rootFormat:
		return nil, fmt.Errorf("its root file system is of format %d, and this version writes %d", m.RootFormat, rootFormat)
	case len(m.Cmdline) > 1024:
		return nil, errors.New("its kernel command line is too long")
	}
	return &m, nil
}

// printable reports whether no text in a JSON value holds a control character.
func printable(value any) bool {
	switch v := value.(type) {
	case string:
		return strings.IndexFunc(v, unicode.IsControl) < 0
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !printable(e) })
	case map[string]any:
		for key, e := range v {
			if !printable(key) || !printable(e) {
				return false
			}
		}
	}
	return true
}

// pullKernel gets the kernel and the initial RAM disk.
func (p *puller) pullKernel(ctx context.Context, ref name.Digest, out string) error {
	img, err := remote.Image(ref, p.c.options...)
	if err != nil {
		return err
	}
	return p.step("pull kernel", func() (string, error) {
		contents, err := newSpool(filepath.Join(p.dir, "kernel-contents"))
		if err != nil {
			return "", err
		}
		defer contents.close()
		t, err := p.c.tree(ctx, img, p.dir, contents, func(detail string) { p.progress(Progress{Step: "pull kernel", Detail: detail}) })
		if err != nil {
			return "", err
		}
		for from, to := range map[string]string{KernelFilename: kernelFile, InitrdFilename: initrdFile} {
			n, err := t.lookup(from)
			if err == nil && (n.kind != kindFile || n.size == 0 || n.size > maxKernel) {
				err = errors.New("it is not a file of a fitting size")
			}
			if err == nil {
				err = writeContent(filepath.Join(out, to), n.content)
			}
			if err != nil {
				return "", firerunner.Errorf(firerunner.Invalid, "%s: %w", from, err)
			}
		}
		return ref.Name(), nil
	})
}

func writeContent(path string, c content) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, c.open())
	return errors.Join(err, f.Close())
}

// pullRootFS gets the root file system.
func (p *puller) pullRootFS(ctx context.Context, img v1.Image, out string) error {
	contents, err := newSpool(filepath.Join(p.dir, "contents"))
	if err != nil {
		return err
	}
	defer contents.close()
	var t *tree
	err = p.step("pull rootfs", func() (string, error) {
		t, err = p.c.tree(ctx, img, p.dir, contents, func(detail string) { p.progress(Progress{Step: "pull rootfs", Detail: detail}) })
		return "", err
	})
	if err != nil {
		return err
	}
	return p.step("root file system", func() (string, error) { return p.writeRootFS(t, filepath.Join(out, rootfsFile)) })
}
