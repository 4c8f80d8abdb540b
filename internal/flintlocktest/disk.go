package flintlocktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// makeExt4 makes a disk image of a folder, without mounting anything. The file is as large as asked for and sparse.
func makeExt4(ctx context.Context, tree, target string, mib int) error {
	cmd := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-O", "^metadata_csum,^64bit",
		"-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0", "-L", "root", "-d", tree, target, strconv.Itoa(mib)+"M")
	cmd.Env = commandEnvironment(os.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making a disk of %d MiB: %w: %.500s", mib, err, out)
	}
	return nil
}

// setOwners gives files in a disk image the owners and modes that they could not have in a folder, because only root can
// give files away. What is not there any more, because a higher layer removed it, and names that debugfs cannot be told
// are passed over.
func setOwners(ctx context.Context, disk string, owners map[string]owned) error {
	if len(owners) == 0 {
		return nil
	}
	var script bytes.Buffer
	for name, o := range owners {
		if strings.ContainsAny(name, "\"\\\n\r\x00") {
			continue
		}
		for _, field := range []struct {
			name  string
			value uint32
		}{
			{"uid", uint32(o.uid)}, {"gid", uint32(o.gid)}, {"mode", o.mode},
		} {
			fmt.Fprintf(&script, "set_inode_field \"/%s\" %s %d\n", name, field.name, field.value)
		}
	}
	script.WriteString("set_inode_field / uid 0\nset_inode_field / gid 0\n")
	cmd := exec.CommandContext(ctx, "debugfs", "-w", "-f", "-", disk)
	cmd.Env, cmd.Stdin = commandEnvironment(os.TempDir()), &script
	var complaints bytes.Buffer
	cmd.Stderr = &boundedWriter{to: &complaints, room: 4 << 10}
	err := cmd.Run()
	// It ends well whatever went wrong, and says who it is first.
	said := complaints.String()
	if strings.HasPrefix(said, "debugfs ") {
		_, said, _ = strings.Cut(said, "\n")
	}
	if err != nil || said != "" {
		return errors.Join(fmt.Errorf("setting owners: %.500s", said), err)
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
