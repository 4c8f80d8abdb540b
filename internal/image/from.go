package image

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/firerunner/firerunner"
)

// origin is a container image to build on.
type origin struct {
	c      *connection
	img    v1.Image
	digest string // of the image for this machine's architecture
	pinned string // what was asked for, by digest: repository@sha256:...
}

// origin asks the registry what the recipe's From is now. A short name means what it means to docker: without a
// registry, Docker Hub; without a tag, latest. Whatever it was, the digest is what is recorded.
func (r *run) origin(ctx context.Context) (*origin, error) {
	c, err := r.Registry.connect(ctx, r.recipe.From)
	if err != nil {
		return nil, err
	}
	o := &origin{c: c}
	err = r.step("from", func() (string, error) {
		found, err := c.resolve(c.ref)
		if err != nil {
			return "", c.fail("look for", err)
		}
		if o.img, err = found.Image(); err != nil {
			return "", c.fail("look for", err)
		}
		digest, err := o.img.Digest()
		if err != nil {
			return "", c.fail("look for", err)
		}
		o.digest, o.pinned = digest.String(), c.ref.Context().Digest(found.Digest.String()).Name()
		config, err := o.img.ConfigFile()
		if err != nil {
			return "", c.fail("look for", err)
		}
		if config.OS != "" && config.OS != "linux" || config.Architecture != "" && config.Architecture != runtime.GOARCH {
			return "", firerunner.Errorf(firerunner.Invalid, "build from %s: it is for %s/%s, and this machine is linux/%s",
				c.ref, visible(config.OS), visible(config.Architecture), runtime.GOARCH)
		}
		return o.pinned, nil
	})
	if err != nil {
		c.close()
		return nil, err
	}
	return o, nil
}

// foreign makes a system of a container image: its files, what jobs cannot do without, and the recipe's packages.
func (r *run) foreign(ctx context.Context, b *base, from *origin, contents *spool) (*tree, error) {
	var t *tree
	err := r.step("pull", func() (_ string, err error) {
		t, err = from.c.tree(ctx, from.img, r.dir, contents, func(detail string) { r.progress(Progress{Step: "pull", Detail: detail}) })
		if err != nil {
			return "", from.c.fail("pull", err)
		}
		return from.pinned, nil
	})
	if err != nil {
		return nil, err
	}
	if !anyOf(t, "bin/sh") {
		return nil, firerunner.Errorf(firerunner.Invalid, "build from %s: it has no /bin/sh, and no job could run in it", from.pinned).
			WithHint("take a base image with a distribution in it")
	}
	wanted := r.wantedIn(t)
	switch {
	case len(wanted) == 0:
	case anyOf(t, "usr/bin/apt-get"):
		if t, err = r.aptInstall(ctx, t, contents, wanted); err != nil {
			return nil, err
		}
	default:
		return nil, firerunner.Errorf(firerunner.Invalid, "build from %s: it lacks %s, and has no apt-get to install them with", from.pinned, strings.Join(wanted, ", ")).
			WithHint("put them into the base image, or take one that is made from Debian or Ubuntu")
	}
	if r.recipe.ownInit() {
		return t, r.addModules(ctx, t, b, contents)
	}
	return t, nil
}

// program is what jobs, or the recipe, need in a foreign image, and the Debian package that has it.
type program struct {
	pkg   string
	paths []string // any of them is enough
}

// wantedIn lists the packages that the recipe asks for, and those without which no job runs: gitlab-runner's shell
// executor needs bash and git, and git the authorities that sign GitLab's certificate.
func (r *run) wantedIn(t *tree) []string {
	need := []program{
		{"bash", []string{"bin/bash", "usr/bin/bash"}},
		{"git", []string{"usr/bin/git", "usr/local/bin/git", "bin/git"}},
		{"ca-certificates", []string{"etc/ssl/certs/ca-certificates.crt", "etc/ssl/cert.pem", "etc/pki/tls/certs/ca-bundle.crt"}},
	}
	if r.recipe.Sudo {
		need = append(need, program{"sudo", []string{"usr/bin/sudo"}})
	}
	if r.recipe.SSHD {
		need = append(need, program{"openssh-server", []string{"usr/sbin/sshd"}})
	}
	if r.recipe.ownInit() {
		need = append(need, program{"systemd-sysv", []string{initPath, "usr/sbin/init"}},
			program{"udev", []string{"usr/lib/systemd/systemd-udevd", "lib/systemd/systemd-udevd", "sbin/udevd", "usr/sbin/udevd"}},
			program{"kmod", []string{"sbin/modprobe", "usr/sbin/modprobe"}})
	}
	wanted := append([]string{}, r.recipe.Packages...)
	for _, p := range need {
		if !anyOf(t, p.paths...) {
			wanted = append(wanted, p.pkg)
		}
	}
	return wanted
}

// anyOf reports whether there is something at one of the paths.
func anyOf(t *tree, paths ...string) bool {
	for _, p := range paths {
		if t.has(p) {
			return true
		}
	}
	return false
}

// addModules puts the modules of the base's kernel into a system that finds its devices by itself.
func (r *run) addModules(ctx context.Context, t *tree, b *base, contents *spool) error {
	system, err := readTree(ctx, filepath.Join(b.dir, rootTar), contents)
	if err != nil {
		return err
	}
	modules, err := system.lookup("lib/modules")
	if err != nil || modules.kind != kindDir {
		return firerunner.Errorf(firerunner.Internal, "find the kernel's modules in the base: %w", errors.Join(err, errAbsent))
	}
	return t.set("lib/modules", modules) // lib may be a link to usr/lib
}
