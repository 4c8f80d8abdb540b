package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// busyTree is a tree with this machine's shell and tools in it, and the libraries that they need: as little as a script
// can run in.
func busyTree(t *testing.T) *tree {
	t.Helper()
	root := newTree()
	for _, file := range []string{
		"/bin/sh", "/bin/cat", "/bin/ls", "/bin/sleep", "/usr/bin/id", "/bin/mkdir", "/bin/mknod", "/bin/ln", "/bin/chmod", "/bin/chown",
		"/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libselinux.so.1", "/lib/x86_64-linux-gnu/libpcre2-8.so.0",
	} {
		real, err := filepath.EvalSymlinks(file)
		require.NoError(t, err)
		require.NoError(t, addProgram(root, strings.TrimPrefix(file, "/"), real))
	}
	require.NoError(t, root.directory("tmp", 0o1777, 0))
	return root
}

// inTree runs a script in such a tree.
func inTree(t *testing.T, root *tree, script string, do task) (*tree, []string, error) {
	t.Helper()
	var said []string
	r := &run{Builder: Builder{Inside: []string{"inside"}}, dir: t.TempDir(), progress: func(p Progress) {
		if !strings.Contains(p.Output, "GOCOVERDIR") { // of this very program, when its coverage is measured
			said = append(said, p.Output)
		}
	}}
	contents, err := newSpool(filepath.Join(r.dir, "contents"))
	require.NoError(t, err)
	t.Cleanup(contents.close)
	do.step, do.scripts = "test", append(do.scripts, []byte(script))
	after, err := r.sandbox(t.Context(), root, contents, do)
	left, readErr := os.ReadDir(r.dir)
	require.NoError(t, readErr)
	require.Len(t, left, 1, "nothing but the spool is left")
	return after, said, err
}

func TestSandboxOK(t *testing.T) {
	root := busyTree(t)
	require.NoError(t, root.set("old", &node{kind: kindFile, mode: 0o4755, uid: 7, gid: 8, mtime: 12345, size: 3, content: literal("abc"), caps: []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}))
	require.NoError(t, root.set("link", &node{kind: kindLink, target: "/../../etc/shadow"}))
	require.NoError(t, root.set("pipe", &node{kind: kindPipe, mode: 0o600}))
	after, said, err := inTree(t, root, `
id -u
echo "see $(ls -A /)"
cat /etc/shadow /proc/1/root/etc/shadow /proc/1/cwd/etc/shadow /link 2>/dev/null && echo escaped
mknod /disk b 8 0 2>/dev/null && echo escaped
echo changed 2>/dev/null >/proc/1/exe && echo escaped
echo "map $(cat /proc/self/uid_map)"
ls /proc | while read -r p; do case $p in [0-9]*) echo "pid $p";; esac; done
cat /proc/net/dev
echo text >/made
chown 5:6 /made; chmod 2750 /made
ln /made /made-too
printf '\033[2Jclear\n'
mkdir /dev/mine
sleep 1000 &
`, task{})
	require.NoError(t, err, said)
	text := strings.Join(said, "\n")
	require.True(t, strings.HasPrefix(text, "0\n"), text)
	require.NotContains(t, text, "escaped")
	require.NotContains(t, text, oldRoot, "the machine is not in sight")
	require.NotContains(t, text, "eth0")
	if os.Geteuid() == 0 {
		require.Regexp(t, `map +0 +1879048192 +65536\n`, text, "its root is nobody here")
	}
	require.LessOrEqual(t, strings.Count(text, "\npid "), 4, "no process of this machine is in sight")
	require.Contains(t, text, "[2Jclear", "what does something to a terminal is taken out")
	require.NotContains(t, text, "\x1b")
	made, err := after.lookup("made")
	require.NoError(t, err)
	require.Equal(t, []any{uint32(0o2750), 5, 6}, []any{made.mode, made.uid, made.gid})
	require.Equal(t, "text\n", textOf(t, after, "made"))
	too, err := after.lookup("made-too")
	require.NoError(t, err)
	require.Same(t, made, too)
	old, err := after.lookup("old")
	require.NoError(t, err)
	require.Equal(t, []any{uint32(0o4755), 7, 8, int64(12345)}, []any{old.mode, old.uid, old.gid, old.mtime}, "what was there is as it was")
	was, err := root.lookup("old")
	require.NoError(t, err)
	require.Equal(t, was.caps, old.caps)
	require.Equal(t, "/../../etc/shadow", after.root.children["link"].target)
	require.Equal(t, kindPipe, after.root.children["pipe"].kind)
	require.NotContains(t, after.root.names(), insideDir)
	require.Empty(t, after.root.children["dev"].children)
}

func TestSandboxErr(t *testing.T) {
	_, said, err := inTree(t, busyTree(t), "echo one; echo two; exit 3", task{})
	require.ErrorContains(t, err, "test: exit status 3: one\ntwo")
	require.Equal(t, []string{"one", "two"}, said)
	_, _, err = inTree(t, busyTree(t), "#!/bin/none\n", task{})
	require.ErrorContains(t, err, "no such file")
	_, _, err = inTree(t, busyTree(t), "exit 1", task{})
	require.ErrorContains(t, err, "test: exit status 1")
	_, _, err = inTree(t, newTree(), "true", task{})
	require.ErrorContains(t, err, "/bin/sh")
	require.Equal(t, 2, Inside(nil), "only in a sandbox")
}

// With the network, names resolve as on this machine, and the image keeps nothing of that.
func TestSandboxNetworkOK(t *testing.T) {
	root := busyTree(t)
	require.NoError(t, root.set("etc/resolv.conf", &node{kind: kindLink, target: "../run/stub"}))
	here, err := os.ReadFile("/etc/resolv.conf")
	require.NoError(t, err)
	after, said, err := inTree(t, root, "cat /etc/resolv.conf", task{network: true})
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(string(here)), strings.TrimSpace(strings.Join(said, "\n")))
	etc, err := after.lookup("etc")
	require.NoError(t, err)
	require.Equal(t, "../run/stub", etc.children["resolv.conf"].target)
}
