package flintlocktest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// makeExt4 makes a disk image of a folder, without mounting anything. The file is as large as asked for and sparse.
// Owners are the files' own: only root can unpack an image so that they are right.
func makeExt4(ctx context.Context, tree, target string, mib int) error {
	cmd := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-O", "^metadata_csum,^64bit",
		"-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0", "-L", "root", "-d", tree, target, strconv.Itoa(mib)+"M")
	cmd.Env = commandEnvironment(os.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making a disk of %d MiB: %w: %.500s", mib, err, out)
	}
	return nil
}

// makeLayer makes the qcow2 file that takes a machine's writes to a disk that others share. One that is there stays:
// a machine that is started again finds what it wrote.
func makeLayer(ctx context.Context, qemuImg string, d Disk) error {
	if _, err := os.Stat(d.Layer); err == nil {
		return nil
	}
	// The format of the base is given: were it guessed, a raw disk could pass for a qcow2 that names any file.
	cmd := exec.CommandContext(ctx, qemuImg, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", d.Base, d.Layer)
	cmd.Env = commandEnvironment(os.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making the layer of disk %s: %w: %.500s", d.ID, err, out)
	}
	return nil
}

// commandEnvironment is all that a program started here is given.
func commandEnvironment(dir string) []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "HOME=" + dir, "TMPDIR=" + dir}
}
