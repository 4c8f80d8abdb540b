package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// Scripts, and package tools of foreign images, run in a sandbox: user, mount, process, IPC and host name namespaces of
// their own, as users who are nobody on this machine, with the tree as their root and nothing else in sight. They have
// no network unless they need it: then it is this machine's.

// sandboxUIDs is the first of the 65536 users and groups of the sandbox on this machine, where it runs as root. Neither
// people, services nor containers are given such numbers: https://systemd.io/UIDS-GIDS/
const sandboxUIDs = 0x70000000

// task is what to run in the sandbox.
type task struct {
	step    string   // for the progress
	scripts [][]byte // in this order
	network bool     // this machine's
	env     []string
}

// sandbox runs a task in a tree and returns what the tree is then, with its contents in that spool. What comes back is
// foreign and goes through the flattener like a layer.
func (r *run) sandbox(ctx context.Context, t *tree, contents *spool, do task) (*tree, error) {
	fail := func(err error) (*tree, error) {
		return nil, firerunner.Errorf(firerunner.Unavailable, "run in the image: %w", err)
	}
	if len(r.Inside) == 0 {
		return fail(errors.New("this program has no sandbox"))
	}
	closed, err := os.MkdirTemp(r.dir, "closed-") // nobody else comes to a setuid program in it
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(closed)
	dir := filepath.Join(closed, "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fail(err)
	}
	names, restore, err := prepareInside(t, do)
	if err != nil {
		return fail(err)
	}
	said := &lastBytes{limit: 4 << 10}
	lines := &lineWriter{each: func(line string) { r.progress(Progress{Step: do.step, Output: visible(line)}) }}
	cmd, done, err := r.sandboxCommand(ctx, dir, names, do)
	if err != nil {
		return fail(err)
	}
	defer done()
	cmd.Stderr = io.MultiWriter(said, lines)
	in, err := cmd.StdinPipe()
	if err != nil {
		return fail(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fail(err)
	}
	// The sandbox dies with the thread that starts it, so with this process, whatever ends it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "start the sandbox: %w", err).
			WithHint("it needs user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone")
	}
	sent := make(chan error, 1)
	go func() {
		err := writeTar(in, t)
		sent <- errors.Join(err, in.Close())
	}()
	flat := newFlattener(contents)
	flatErr := flat.add(ctx, out)
	if flatErr == nil {
		_, flatErr = io.Copy(io.Discard, out)
	} else {
		_ = cmd.Process.Kill() // or it would wait for somebody to read
	}
	sendErr := <-sent
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return fail(ctx.Err())
	case err != nil && said.b.Len() > 0:
		return nil, firerunner.Errorf(firerunner.Invalid, "%s: %w: %s", do.step, err, lastLines(said.String(), 12))
	case err != nil:
		return nil, firerunner.Errorf(firerunner.Invalid, "%s: %w, and it said nothing", do.step, err)
	case errors.Join(sendErr, flatErr) != nil:
		return fail(errors.Join(sendErr, flatErr))
	}
	if err := restore(flat.tree); err != nil {
		return fail(err)
	}
	return flat.tree, nil
}

// prepareInside puts the scripts into a tree, directories where the sandbox mounts something, and, with the network,
// what this machine resolves names with. restore takes the last of it out of what comes back.
func prepareInside(t *tree, do task) (names []string, restore func(*tree) error, err error) {
	restore = func(*tree) error { return nil }
	for _, dir := range []string{"proc", "dev"} {
		if n := t.root.children[dir]; n == nil || n.kind != kindDir {
			delete(t.root.children, dir)
		} else {
			clear(n.children)
		}
		if err := t.directory(dir, 0o755, 0); err != nil {
			return nil, nil, err
		}
	}
	delete(t.root.children, insideDir)
	delete(t.root.children, oldRoot)
	for i, script := range do.scripts {
		name := fmt.Sprintf("run-%d", i+1)
		names = append(names, name)
		if err := t.file(insideDir+"/"+name, 0o700, 0, script); err != nil {
			return nil, nil, err
		}
	}
	if do.network {
		const resolver = "etc/resolv.conf"
		here, err := os.ReadFile("/" + resolver)
		if err != nil {
			return nil, nil, err
		}
		was := &node{kind: kindFile, mode: 0o644}
		if dir, base, err := t.walk(resolver, false, false, 0); err == nil && dir.children[base] != nil {
			was = dir.children[base].node
		}
		restore = func(t *tree) error { return t.set(resolver, was) }
		if err := t.file(resolver, 0o644, 0, here); err != nil {
			return nil, nil, err
		}
	}
	return names, restore, nil
}

// sandboxCommand makes the command; done releases what it holds.
func (r *run) sandboxCommand(ctx context.Context, dir string, names []string, do task) (cmd *exec.Cmd, done func(), err error) {
	// By this name it is found whoever may not go through the directories above it.
	args := append([]string{"/proc/self/exe"}, r.Inside...)
	way := treeHere
	if os.Geteuid() == 0 {
		way = treeByMount
	}
	args = append(append(args, way), names...)
	flags := uintptr(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS)
	own := "--ipc"
	if !do.network {
		flags |= syscall.CLONE_NEWNET
		own = "--net"
	}
	attributes := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: sandboxUIDs, Size: 1 << 16}}
		attributes.Cloneflags, attributes.UidMappings, attributes.GidMappings = flags, ids, ids
		attributes.GidMappingsEnableSetgroups = true
		attributes.Credential = &syscall.Credential{Uid: 0, Gid: 0}
	} else { // newuidmap has to help; unshare(1) knows how
		unshare, err := look("unshare")
		if err != nil {
			return nil, nil, err
		}
		if _, err := look("newuidmap"); err != nil {
			return nil, nil, err
		}
		if args[0], err = os.Executable(); err != nil {
			return nil, nil, err
		}
		args = append([]string{unshare, "--map-root-user", "--map-auto", "--mount", "--pid", "--ipc", "--uts", own, "--fork", "--kill-child", "--"}, args...)
	}
	cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 15 * time.Second
	cmd.SysProcAttr = attributes
	cmd.Env = append([]string{"PATH=" + toolPath, "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, do.env...)
	if do.network {
		cmd.Env = append(cmd.Env, proxies()...)
	}
	if way == treeHere {
		cmd.Dir = dir
		return cmd, func() {}, nil
	}
	if err := os.Chown(dir, sandboxUIDs, sandboxUIDs); err != nil {
		return nil, nil, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("open the tree: %w", err)
	}
	mount := os.NewFile(uintptr(fd), "tree")
	cmd.ExtraFiles = []*os.File{mount}
	return cmd, func() { _ = mount.Close() }, nil
}

// proxies are this process's variables about them.
func proxies() []string {
	var env []string
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if value, found := os.LookupEnv(name); found {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// visible is a line of foreign output without what could do something to a terminal.
func visible(line string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) && c != '\t' || c == unicode.ReplacementChar {
			return -1
		}
		return c
	}, line)
}

// lastLines is the end of a text, visible.
func lastLines(text string, most int) string {
	lines := bytes.Split(bytes.TrimSpace([]byte(text)), []byte("\n"))
	var out []string
	for _, line := range lines[max(0, len(lines)-most):] {
		out = append(out, visible(string(line)))
	}
	return strings.Join(out, "\n")
}
