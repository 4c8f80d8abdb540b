package image

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/firerunner/firerunner"
)

// Progress is one thing that happened in a build: a step began (Done is false; Detail may say how far it is), or
// ended.
type Progress struct {
	Step    string        // "base", "kernel", "root file system", ...
	Output  string        // a line that a program in the image has printed; nothing else has happened then
	Detail  string        // what is happening in it, or what came of it
	Done    bool          // the step has ended
	Elapsed time.Duration // since the step began
}

// Builder builds images into a store. A zero field other than Store means its default.
type Builder struct {
	Store    *Store
	Apt      string           // apt's configuration: /etc/apt
	Keyrings string           // where keyrings of distributions are: /usr/share/keyrings
	Exec     Exec             // runs programs
	HTTP     *http.Client     // fetches gitlab-runner; the default gives up after 10 minutes
	Now      func() time.Time // time.Now

	Registry Registry // where container images to build on come from
	// Inside are the arguments with which this very program calls the function Inside; without them, nothing can be
	// run in an image.
	Inside []string
}

// imageVersion is raised when an image is made in another way from the same base, agent and gitlab-runner.
const imageVersion = 4

// cmdline is what our guests' kernels are told: not to test its ciphers at each boot (0.3 s of processor time under
// emulation), and not to clear memory as it hands it out (0.25 s): a guest's memory comes cleared from its host, and
// there is only one tenant in it.
const cmdline = "cryptomgr.notests init_on_alloc=0"

// Build makes the image that a recipe describes, or finds that it is there already, and gives it its name. It
// calls progress, if that is not nil, from this goroutine or one that has ended when Build returns. When the
// context ends nothing half-made is left.
func (b *Builder) Build(ctx context.Context, recipe Recipe, progress func(Progress)) (firerunner.Image, error) {
	recipe, err := recipe.complete()
	if err != nil {
		return firerunner.Image{}, err
	}
	r := &run{Builder: *b, recipe: recipe, progress: progress}
	if r.Apt == "" {
		r.Apt = "/etc/apt"
	}
	if r.Keyrings == "" {
		r.Keyrings = "/usr/share/keyrings"
	}
	if r.Exec == nil {
		r.Exec = Execute
	}
	if r.HTTP == nil {
		r.HTTP = &http.Client{Timeout: 10 * time.Minute}
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.progress == nil {
		r.progress = func(Progress) {}
	}
	var remove func()
	r.dir, remove, err = scratch(ctx, b.Store.tmp())
	if err != nil {
		return firerunner.Image{}, err
	}
	defer remove()
	return r.build(ctx)
}

// run is one build.
type run struct {
	Builder
	recipe   Recipe
	progress func(Progress)
	dir      string // its own, removed at the end
}

func (r *run) build(ctx context.Context) (firerunner.Image, error) {
	m := &Manifest{Recipe: r.recipe, Cmdline: cmdline, RootFormat: rootFormat}
	var agent, runner string
	var err error
	if r.recipe.NoAgent {
		m.Cmdline += ownCmdline
	} else if agent, runner, err = r.binaries(ctx, m); err != nil {
		return firerunner.Image{}, err
	}
	base, err := r.system(ctx, m)
	if err != nil {
		return firerunner.Image{}, err
	}
	m.BaseKey, m.KernelVersion, m.Packages = base.Key, base.KernelVersion, base.Packages
	m.BuildKey = r.buildKey(base, m)
	if found, err := r.existing(ctx, m.BuildKey); err != nil || found.Digest != "" {
		return found, err
	}

	out := filepath.Join(r.dir, "image")
	if err := os.Mkdir(out, 0o755); err != nil {
		return firerunner.Image{}, firerunner.Errorf(firerunner.Unavailable, "make an image: %w", err)
	}
	err = r.step("root file system", func() (string, error) {
		return r.rootfs(ctx, base, agent, runner, filepath.Join(out, rootfsFile))
	})
	if err != nil {
		return firerunner.Image{}, err
	}
	err = r.step("initial RAM disk", func() (string, error) { return r.boot(base, agent, out) })
	if err != nil {
		return firerunner.Image{}, err
	}
	err = r.step("digests", func() (string, error) {
		m.BuiltAt = r.Now().UTC()
		if err := m.measure(out); err != nil {
			return "", firerunner.Errorf(firerunner.Unavailable, "measure the image: %w", err)
		}
		if err := writeJSON(filepath.Join(out, manifestFile), m); err != nil {
			return "", firerunner.Errorf(firerunner.Unavailable, "write the image's manifest: %w", err)
		}
		return short(m.Digest), nil
	})
	if err != nil {
		return firerunner.Image{}, err
	}
	if err := ctx.Err(); err != nil {
		return firerunner.Image{}, firerunner.Errorf(firerunner.Unavailable, "build an image: %w", err)
	}
	return r.Store.install(ctx, out, m)
}

// system finds or makes what the image is made from, and notes the container image in the manifest if it is one.
func (r *run) system(ctx context.Context, m *Manifest) (*base, error) {
	var from *origin
	if r.recipe.From != "" { // before anything expensive
		var err error
		if from, err = r.origin(ctx); err != nil {
			return nil, err
		}
		defer from.c.close()
		m.From = from.pinned
	}
	b, err := r.base(ctx)
	if err != nil {
		return nil, err
	}
	return r.derived(ctx, b, from)
}

// buildKey is over everything that is put into an image.
func (r *run) buildKey(b *base, m *Manifest) string {
	parts := []any{imageVersion, rootFormat, b.Digest, m.AgentSHA256, m.RunnerSHA256, r.recipe.DiskMiB, r.recipe.Sudo, r.recipe.SSHD}
	if m.From != "" { // the same bytes, but another answer to where they are from
		parts = append(parts, m.From)
	}
	if r.recipe.NoAgent {
		parts = append(parts, "no agent", plainInit, hostKeys, m.Cmdline)
	}
	return keyOf(parts...)
}

// existing looks for an image that was built from the same parts, and gives it the name of the recipe.
func (r *run) existing(ctx context.Context, buildKey string) (firerunner.Image, error) {
	all, err := r.Store.digests()
	if err != nil {
		return firerunner.Image{}, err
	}
	for _, digest := range all {
		m, err := readManifest(r.Store.imageDir(digest))
		if err != nil || m.BuildKey != buildKey {
			continue
		}
		unlock, err := r.Store.lock(ctx)
		if err != nil {
			return firerunner.Image{}, err
		}
		defer unlock()
		if _, err := os.Stat(r.Store.imageDir(digest)); err != nil {
			return firerunner.Image{}, nil // removed before we had the lock
		}
		r.progress(Progress{Step: "image", Detail: short(digest) + " is there already", Done: true})
		return m.image(r.Store.imageDir(digest), r.recipe.Name), r.Store.name(r.recipe.Name, digest)
	}
	return firerunner.Image{}, nil
}

// step runs one step and tells of its beginning and its end.
func (r *run) step(name string, f func() (string, error)) error {
	began := r.Now()
	r.progress(Progress{Step: name})
	detail, err := f()
	if err != nil {
		return err
	}
	r.progress(Progress{Step: name, Detail: detail, Done: true, Elapsed: r.Now().Sub(began)})
	return nil
}
