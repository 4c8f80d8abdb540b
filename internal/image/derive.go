package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/firerunner/firerunner"
)

// A derived base is what a base becomes: another system in place of Debian's, packages in that, and what the recipe's
// scripts do. The kernel, and what boots it, stay. It is kept like a base, so that a new agent costs seconds.

// derivedVersion is raised when a derived base is made in another way from the same parts.
const derivedVersion = 1

// derived finds or makes what the recipe makes of a base. from is nil where the system is the base's own.
func (r *run) derived(ctx context.Context, b *base, from *origin) (*base, error) {
	if from == nil && len(r.recipe.Scripts) == 0 {
		return b, nil
	}
	parts := []any{"derived", derivedVersion, b.Digest, r.recipe.Scripts, r.recipe.Network}
	if from != nil {
		parts = append(parts, from.digest, r.recipe.Packages, r.recipe.Sudo, r.recipe.SSHD, r.recipe.NoAgent, r.recipe.FromMirrors)
	}
	key := keyOf(parts...)
	return r.keep(ctx, key, func(dir string) error {
		d := *b
		d.Key, d.BuiltAt = key, r.Now().UTC()
		err := os.Mkdir(dir, 0o755)
		for _, name := range []string{kernelFile, busyboxName, modulesName} {
			if err == nil {
				err = linkAll(filepath.Join(dir, name), filepath.Join(b.dir, name))
			}
		}
		if err != nil {
			return firerunner.Errorf(firerunner.Unavailable, "make the base: %w", err)
		}
		return r.makeDerived(ctx, b, &d, from, dir)
	})
}

func (r *run) makeDerived(ctx context.Context, b, d *base, from *origin, dir string) error {
	contents, err := newSpool(filepath.Join(r.dir, "derived-contents"))
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "make the base: %w", err)
	}
	defer func() { contents.close(); _ = os.Remove(contents.f.Name()) }()
	var t *tree
	if from == nil {
		t, err = readTree(ctx, filepath.Join(b.dir, rootTar), contents)
	} else {
		t, err = r.foreign(ctx, b, from, contents)
	}
	if err != nil {
		return firerunner.Errorf(firerunner.CodeOf(err), "make the base: %w", err).WithHint("%s", firerunner.HintOf(err))
	}
	for _, s := range r.recipe.Scripts {
		err := r.step("run "+s.Name, func() (string, error) {
			t, err = r.sandbox(ctx, t, contents, task{step: "run " + s.Name, scripts: [][]byte{s.body}, network: r.recipe.Network})
			if err != nil && !r.recipe.Network && ctx.Err() == nil {
				var e *firerunner.Error
				if errors.As(err, &e) && e.Code == firerunner.Invalid {
					err = e.WithHint("scripts have no network; --run-network gives them this machine's")
				}
			}
			return "", err
		})
		if err != nil {
			return err
		}
	}
	return r.step("keep", func() (string, error) {
		if err := writeTarFile(filepath.Join(dir, rootTar), t); err != nil {
			return "", firerunner.Errorf(firerunner.Unavailable, "keep the base: %w", err)
		}
		if err := d.describe(dir); err != nil {
			return "", firerunner.Errorf(firerunner.Unavailable, "read the base: %w", err)
		}
		return fmt.Sprintf("%d packages", len(d.Packages)), nil
	})
}

// keep finds what is kept by that key, or has it made in a directory that it gives. Of two builds that need the same
// one, one makes it and the other waits.
func (r *run) keep(ctx context.Context, key string, mk func(dir string) error) (*base, error) {
	dir := filepath.Join(r.Store.Dir, "base", key)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "make the base directory: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if b, err := readBase(dir); err == nil && !r.recipe.Refresh {
		r.progress(Progress{Step: "base", Detail: "kept from " + b.BuiltAt.Format("2006-01-02"), Done: true})
		return b, nil
	}
	made := filepath.Join(r.dir, "base-"+key[:12])
	if err := mk(made); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "make the base: %w", err)
	}
	if err := os.Rename(dir, filepath.Join(r.dir, "old-"+key[:12])); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, firerunner.Errorf(firerunner.Unavailable, "replace the base: %w", err)
	}
	if err := os.Rename(made, dir); err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "keep the base: %w", err)
	}
	return readBase(dir)
}

// linkAll makes a second name of a file, or of each file in a directory. What is not there is left out.
func linkAll(to, from string) error {
	info, err := os.Stat(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if err := os.Link(from, to); err != nil {
			return copyFile(to, from)
		}
		return nil
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	for _, e := range entries {
		err = errors.Join(err, linkAll(filepath.Join(to, e.Name()), filepath.Join(from, e.Name())))
	}
	return err
}

func writeTarFile(path string, t *tree) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(writeTar(w, t), w.Flush(), f.Close())
}
