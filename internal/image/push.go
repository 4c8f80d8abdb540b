package image

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/firerunner/firerunner"
)

// Pushed is where a pair is now. Both references are by digest: what they name can never change.
type Pushed struct {
	Image  string `json:"image"`  // digest of the local image
	Kernel string `json:"kernel"` // repository@sha256:...
	RootFS string `json:"rootfs"`
	Tag    string `json:"tag"` // the reference that was asked for; it can be moved
	// Files in the kernel image.
	KernelFile string `json:"kernel_file"`
	InitrdFile string `json:"initrd_file"`
}

// kernelTag is what the tag of a kernel image ends in: it stands beside its root file system.
const kernelTag = "-kernel"

// Push uploads an image as two container images: the root file system as to, the kernel with the same tag and
// "-kernel". The kernel comes first, and a tag comes last: who sees one finds all of it. Interrupted, it leaves at most layers
// that nothing names.
func (g Registry) Push(ctx context.Context, images *Store, ref, to string, progress func(Progress)) (Pushed, error) {
	if host, _, found := strings.Cut(to, "/"); !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return Pushed{}, firerunner.Errorf(firerunner.Invalid, "push to %.200q: it does not say which registry", to).
			WithHint("such as registry.example.com/team/image:tag; hosts need the full name as well")
	}
	c, err := g.connect(ctx, to)
	if err != nil {
		return Pushed{}, err
	}
	defer c.close()
	tag, ok := c.ref.(name.Tag)
	if !ok {
		return Pushed{}, firerunner.Errorf(firerunner.Invalid, "push to %s: a digest cannot be chosen; name a tag", to)
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	pair, err := images.Pair(ctx, ref, progress)
	if err != nil {
		return Pushed{}, err
	}
	pushed := Pushed{Image: pair.Image, Tag: tag.Name(), KernelFile: KernelFilename, InitrdFile: InitrdFilename}
	kernel, err := name.NewTag(tag.Context().Name()+":"+tag.TagStr()+kernelTag, insecure(tag)...)
	if err != nil {
		return Pushed{}, firerunner.Errorf(firerunner.Invalid, "push to %s: the tag is too long", to)
	}
	if pushed.Kernel, err = c.pushOne(ctx, pair, kernelName, pair.Kernel, kernel, progress); err != nil {
		return Pushed{}, c.fail("push to", err)
	}
	if pushed.RootFS, err = c.pushOne(ctx, pair, rootfsName, pair.RootFS, tag, progress); err != nil {
		return Pushed{}, c.fail("push to", err)
	}
	return pushed, nil
}

// insecure is how a reference is made that may be asked for like another.
func insecure(like name.Reference) []name.Option {
	if like.Context().Scheme() == "http" {
		return []name.Option{name.Insecure}
	}
	return nil
}

// pushOne uploads one image and asks the registry for what it has.
func (c *connection) pushOne(ctx context.Context, pair Pair, what, digest string, to name.Tag, progress func(Progress)) (string, error) {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return "", err
	}
	img, err := layout.Path(pair.Dir).Image(hash)
	if err != nil {
		return "", err
	}
	began, step := c.Now(), "push "+what
	progress(Progress{Step: step})
	updates := make(chan v1.Update, 16)
	told := make(chan struct{})
	go func() {
		defer close(told)
		shown := int64(-1)
		for u := range updates { // Write closes it
			if percent := u.Complete * 100 / max(u.Total, 1); u.Error == nil && percent/5 != shown/5 {
				shown = percent
				progress(Progress{Step: step, Detail: fmt.Sprintf("%d %% of %d MiB", percent, u.Total>>20), Elapsed: c.Now().Sub(began)})
			}
		}
	}()
	err = remote.Write(to, img, append(c.options, remote.WithProgress(updates))...)
	<-told
	if err != nil {
		return "", errors.Join(context.Cause(ctx), err)
	}
	pinned := to.Context().Digest(digest)
	there, err := remote.Head(pinned, c.options...)
	if err != nil {
		return "", fmt.Errorf("look for it there: %w", err)
	}
	if there.Digest != hash {
		return "", firerunner.Errorf(firerunner.Unavailable, "the registry has %s instead of %s", there.Digest, digest)
	}
	progress(Progress{Step: step, Detail: pinned.Name(), Done: true, Elapsed: c.Now().Sub(began)})
	return pinned.Name(), nil
}
