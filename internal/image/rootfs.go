package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/firerunner/firerunner"
)

const (
	jobUID  = 1000
	jobHome = "/home/ci"
)

// rootfs makes the root file system: the base, and on top of it what makes a guest of it.
func (r *run) rootfs(ctx context.Context, b *base, agent, runner, target string) (string, error) {
	fail := func(err error) (string, error) {
		return "", firerunner.Errorf(firerunner.Unavailable, "make the root file system: %w", err)
	}
	added := filepath.Join(r.dir, "guest.tar")
	used, err := writeGuestTar(added, filepath.Join(b.dir, rootTar), agent, runner, r.recipe.Sudo)
	if err != nil {
		return fail(err)
	}
	baseInfo, err := os.Stat(filepath.Join(b.dir, rootTar))
	if err != nil {
		return fail(err)
	}
	// A tar file is about as large as the files in it. 3 % are what ext4 needs for itself.
	mib := ((used+baseInfo.Size())>>20 + int64(r.recipe.DiskMiB) + 64) * 103 / 100
	tree := filepath.Join(r.dir, "tree")
	// All in one shell, because all of it needs to seem to be root. Without a journal: the disk lives as long as
	// its one job and is never mounted again. With uninit_bg, so that empty tables of inodes are not written.
	script := fmt.Sprintf(`set -e
mkdir %[1]s
tar -C %[1]s --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -xpf %[2]s
tar -C %[1]s --numeric-owner -xpf %[3]s
mkfs.ext4 -q -F -O ^metadata_csum,^64bit,^has_journal,uninit_bg -E lazy_itable_init=1 -m 0 -L root -d %[1]s %[4]s %[5]dM
rm -rf %[1]s
`, quote(tree), quote(filepath.Join(b.dir, rootTar)), quote(added), quote(target), mib)
	if err := r.Exec(ctx, Command{Args: asRoot("sh", "-c", script)}); err != nil {
		return fail(err)
	}
	stored, err := allocated(target)
	if err != nil {
		return fail(err)
	}
	return fmt.Sprintf("%d MiB, %d MiB stored", mib, stored>>20), nil
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
	binary, err := os.ReadFile(agent)
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
	err = Initramfs(f, binary, modules)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fail(err)
	}
	return b.KernelVersion, nil
}

// writeGuestTar writes what a guest has in addition to the base: the agent, gitlab-runner, the job's user, and
// empty files in place of what says which machine it is. It returns how many bytes of files it holds.
func writeGuestTar(target, baseTar, agent, runner string, sudo bool) (int64, error) {
	f, err := os.Create(target)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	out := bufio.NewWriter(f)
	g := &guestTar{w: tar.NewWriter(out)}
	for _, account := range []struct {
		file, line string
		mode       int64
	}{
		{"etc/passwd", fmt.Sprintf("ci:x:%d:%d:CI job:%s:/bin/bash\n", jobUID, jobUID, jobHome), 0o644},
		{"etc/group", fmt.Sprintf("ci:x:%d:\n", jobUID), 0o644},
		{"etc/shadow", "ci:!*:19000::::::\n", 0o640},
		{"etc/gshadow", "ci:!*::\n", 0o640},
	} {
		text, err := fileInTar(baseTar, account.file)
		if err != nil && firerunner.CodeOf(err) != firerunner.NotFound {
			return 0, err
		}
		if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
			text = append(text, '\n')
		}
		owner := 0
		if account.mode == 0o640 {
			owner = 42 // shadow, which has this number on every Debian
		}
		g.file(account.file, account.mode, 0, owner, append(text, account.line...))
	}
	g.dir("home/ci", 0o755, jobUID)
	g.dir("builds", 0o700, jobUID)
	g.dir("cache", 0o700, jobUID)
	for _, empty := range []string{"etc/machine-id", "etc/hostname", "etc/resolv.conf"} {
		g.file(empty, 0o644, 0, 0, nil)
	}
	if sudo {
		g.file("etc/sudoers.d/firerunner", 0o440, 0, 0, []byte("ci ALL=(ALL:ALL) NOPASSWD: ALL\n"))
	}
	g.copy("usr/sbin/fireguest", agent)
	g.copy("usr/local/bin/gitlab-runner", runner)
	return g.size, errors.Join(g.err, g.w.Close(), out.Flush())
}

type guestTar struct {
	w    *tar.Writer
	size int64
	err  error
}

// epoch is the time of every file that we add: the same parts make the same tar file.
var epoch = time.Unix(0, 0)

func (g *guestTar) header(h *tar.Header) bool {
	h.ModTime, h.Format = epoch, tar.FormatGNU
	if g.err == nil {
		g.err = g.w.WriteHeader(h)
		g.size += h.Size
	}
	return g.err == nil
}

func (g *guestTar) dir(name string, mode int64, owner int) {
	g.header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner})
}

func (g *guestTar) file(name string, mode int64, uid, gid int, data []byte) {
	if g.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Uid: uid, Gid: gid, Size: int64(len(data))}) {
		_, g.err = g.w.Write(data)
	}
}

// copy adds a program.
func (g *guestTar) copy(name, from string) {
	f, err := os.Open(from)
	if err != nil {
		g.err = errors.Join(g.err, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		g.err = errors.Join(g.err, err)
		return
	}
	if g.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: info.Size()}) {
		_, g.err = io.Copy(g.w, f)
	}
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
