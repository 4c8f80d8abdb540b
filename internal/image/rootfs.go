package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/firerunner/firerunner"
)

// rootfs makes the root file system: the base, and on top of it what makes a guest of it.
func (r *run) rootfs(ctx context.Context, b *base, agent, runner, target string) (string, error) {
	fail := func(err error) (string, error) {
		return "", firerunner.Errorf(firerunner.Unavailable, "make the root file system: %w", err)
	}
	contents, err := newSpool(filepath.Join(r.dir, "contents"))
	if err != nil {
		return fail(err)
	}
	defer contents.close()
	t, err := readTree(ctx, filepath.Join(b.dir, rootTar), contents)
	if err != nil {
		return fail(err)
	}
	if r.recipe.NoAgent {
		err = addOwn(t)
	} else {
		err = addGuest(t, guestParts{agent: agent, runner: runner, sudo: r.recipe.Sudo, keepInit: r.recipe.SSHD})
	}
	if err != nil {
		return fail(err)
	}
	return r.writeRootFS(t, target)
}

// readTree reads a tar file that holds a whole system.
func readTree(ctx context.Context, tarPath string, contents *spool) (*tree, error) {
	f, err := os.Open(tarPath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	flat := newFlattener(contents)
	if err := flat.add(ctx, f); err != nil {
		return nil, err
	}
	return flat.tree, nil
}

// writeRootFS writes a tree as the image's file system. Nothing but the tree and the recipe's disk_mib has a say, so
// that an image that comes from a registry is made again as it was.
func (r *run) writeRootFS(t *tree, target string) (string, error) {
	fail := func(err error) (string, error) {
		return "", firerunner.Errorf(firerunner.Unavailable, "make the root file system: %w", err)
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return fail(err)
	}
	err = writeExt4(f, t, int64(r.recipe.DiskMiB)<<20)
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return fail(err)
	}
	stored, err := allocated(target)
	if err != nil {
		return fail(err)
	}
	return fmt.Sprintf("%d MiB, %d MiB stored", info.Size()>>20, stored>>20), nil
}

// boot puts the kernel and the initial RAM disk into the image.
func (r *run) boot(b *base, agent, out string) (string, error) {
	fail := func(err error) (string, error) {
		return "", firerunner.Errorf(firerunner.Unavailable, "make the initial RAM disk: %w", err)
	}
	kernel := filepath.Join(b.dir, kernelFile)
	if err := os.Link(kernel, filepath.Join(out, kernelFile)); err != nil {
		if err := copyFile(filepath.Join(out, kernelFile), kernel); err != nil {
			return fail(err)
		}
	}
	var program []byte
	var more []Entry
	var err error
	if r.recipe.NoAgent {
		program = []byte(plainInit)
		more, err = plainEntries(b.dir)
	} else {
		program, err = os.ReadFile(agent)
	}
	if err != nil {
		return fail(err)
	}
	var modules []Module
	for _, m := range b.Modules {
		data, err := os.ReadFile(filepath.Join(b.dir, modulesName, m.Name))
		if err != nil {
			return fail(err)
		}
		modules = append(modules, Module{Name: m.Name, Condition: m.Condition, Data: data})
	}
	f, err := os.Create(filepath.Join(out, initrdFile))
	if err != nil {
		return fail(err)
	}
	err = Initramfs(f, program, modules, more...)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fail(err)
	}
	return b.KernelVersion, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
