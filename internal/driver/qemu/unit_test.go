package qemu

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

func TestNewErrors(t *testing.T) {
	for name, cfg := range map[string]Config{
		"ErrRelative":    {StateDir: "state"},
		"ErrEmpty":       {},
		"ErrAccelerator": {StateDir: stateDir(t), Accel: "hax"},
		"ErrLongPath":    {StateDir: filepath.Join(stateDir(t), strings.Repeat("long", 20))},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(cfg)
			require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "%v", err)
		})
	}
	t.Run("ErrFile", func(t *testing.T) {
		file := filepath.Join(stateDir(t), "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		_, err := New(Config{StateDir: file})
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), "%v", err)
	})
	t.Run("OwnUIDs", func(t *testing.T) {
		a, b := uidBaseOf("/var/lib/a"), uidBaseOf("/var/lib/b")
		require.NotEqual(t, a, b)
		require.GreaterOrEqual(t, a, firstUID)
		require.Less(t, firstUID+uidRanges*defaultUIDCount, 1<<31)
	})
}

func TestConsole(t *testing.T) {
	var file bytes.Buffer
	c := newConsole(&file, 10)
	for _, part := range []string{"01234", "56789abc", strings.Repeat("x", 3*consoleTail), "the end"} {
		n, err := c.Write([]byte(part))
		require.NoError(t, err)
		require.Equal(t, len(part), n)
	}
	require.Equal(t, "0123456789\n[firerunner: console output beyond 10 bytes is dropped]\n", file.String())
	require.Equal(t, "the end", c.last(7))
	require.LessOrEqual(t, len(c.tail), 2*consoleTail)
	require.EqualValues(t, 5+8+3*consoleTail+7, c.seen())

	// A full disk stops the file, and nothing else.
	c = newConsole(broken{}, 10)
	_, err := c.Write([]byte("kept"))
	require.NoError(t, err)
	require.Equal(t, "kept", c.last(100))
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestCappedWriter(t *testing.T) {
	var to bytes.Buffer
	w := NewCappedWriter(&to, 5)
	for _, part := range []string{"abc", "def", "ghi"} {
		n, err := w.Write([]byte(part))
		require.NoError(t, err)
		require.Equal(t, 3, n)
	}
	require.Equal(t, "abcde", to.String())
	_, err := NewCappedWriter(broken{}, 5).Write([]byte("x"))
	require.Error(t, err)
}

func TestEnding(t *testing.T) {
	state := func(script string) *os.ProcessState {
		cmd := exec.Command("/bin/sh", "-c", script)
		_ = cmd.Run()
		return cmd.ProcessState
	}
	for name, c := range map[string]struct {
		ending
		code int
		says string
	}{
		"off":       {ending{State: state("exit 0"), Console: "reboot: Power down"}, 0, "the guest turned its machine off"},
		"panic":     {ending{State: state("exit 0"), Console: "x\nKernel panic - not syncing: VFS: Unable to mount root fs\r\nmore"}, 0, "kernel panic in the guest: VFS: Unable to mount root fs"},
		"qemu":      {ending{State: state("exit 1"), Stderr: "warning: x\nqemu: cannot do that\n"}, 1, "qemu exited with status 1: qemu: cannot do that"},
		"killed":    {ending{State: state("kill -9 $$")}, 137, "qemu was killed by signal 9 (killed)"},
		"oom":       {ending{State: state("kill -9 $$"), OOMKills: 1, LimitMiB: 768}, 137, "killed for want of memory: qemu and shim reached the limit of 768 MiB"},
		"destroyed": {ending{State: state("kill -9 $$"), Cause: causeDestroyed}, 137, "destroyed"},
		"escapes":   {ending{State: state("exit 0"), Console: "Kernel panic - not syncing: \x1b[2J" + strings.Repeat("a", 1000)}, 0, "kernel panic in the guest: [2Jaaa"},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.report()
			require.Equal(t, firerunner.ReportExited, r.Kind)
			require.Equal(t, c.code, r.ExitCode)
			require.True(t, strings.HasPrefix(r.Message, c.says), r.Message)
			require.LessOrEqual(t, len(r.Message), 500)
		})
	}
}

func TestOOMKills(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.events")
	require.NoError(t, os.WriteFile(file, []byte("low 0\noom 3\noom_kill 2\n"), 0o600))
	require.Equal(t, 2, oomKills(file))
	require.Zero(t, oomKills(""))
	require.Zero(t, oomKills(file+".not"))
	require.NoError(t, os.WriteFile(file, []byte("low 0\n"), 0o600))
	require.Zero(t, oomKills(file))
}

func TestTSC(t *testing.T) {
	if !haveTSC {
		t.Skip("this processor has no time stamp counter of the kind")
	}
	var a, b tscClock
	one, err := a.rate()
	require.NoError(t, err)
	two, err := b.rate()
	require.NoError(t, err)
	require.Greater(t, one, uint64(200_000), "kHz")
	require.Less(t, one, uint64(10_000_000), "kHz")
	require.InEpsilon(t, one, two, 0.001, "two measurements differ")
	again, err := a.rate()
	require.NoError(t, err)
	require.Equal(t, one, again)
}

func TestArguments(t *testing.T) {
	spec := shimSpec{
		ID: "vm1", Dir: "/state/with,comma", Accel: AccelTCG, TSCKHz: 2_600_000, Size: firerunner.Size{VCPUs: 2, MemoryMiB: 512},
		Image: firerunner.Image{Kernel: "/k", Initrd: "/i", RootFS: "/r", Cmdline: "init=/x"}, Token: testToken,
	}
	line := strings.Join(arguments(spec, "52:54:00:00:00:01"), " ")
	for _, want := range []string{
		"-M microvm,rtc=on", "-m 512", "-smp 2", "-accel tcg,tb-size=64", "-no-reboot", "-nodefaults", "-no-user-config",
		"file=/state/with,,comma/disk.qcow2", "cache=unsafe", "format=qcow2", "name=firerunner.0", "spawn=deny",
		"console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=2600000 tsc=reliable init=/x", "mac=52:54:00:00:00:01",
		"addr.type=fd,addr.str=4", "socket,id=guest,fd=3", "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on",
	} {
		require.Contains(t, line, want)
	}
	require.NotContains(t, line, testToken)

	spec.Accel, spec.Image.Initrd, spec.Image.RootFS = AccelKVM, "", ""
	line = strings.Join(arguments(spec, ""), " ")
	require.Contains(t, line, "-accel kvm -cpu host")
	for _, not := range []string{"tsc", "-initrd", "-drive", "-netdev"} {
		require.NotContains(t, line, not)
	}
}

func TestFolderOpen(t *testing.T) {
	f := folder(t.TempDir())
	require.NoError(t, os.Mkdir(f.dir("a"), 0o700))
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("root's own"), 0o600))
	in := func(name string) string { return filepath.Join(f.dir("a"), name) }
	require.NoError(t, os.WriteFile(in("plain"), []byte("0123456789"), 0o600))
	require.NoError(t, os.Symlink(secret, in("link")))
	require.NoError(t, os.Link(secret, in("hard")))
	require.NoError(t, unix.Mkfifo(in("pipe"), 0o600))
	require.NoError(t, os.Mkdir(in("folder"), 0o700))

	file, err := f.open("a", "plain")
	require.NoError(t, err)
	require.NoError(t, file.Close())
	require.Equal(t, "789", f.tail("a", "plain", 3))
	require.Equal(t, "", f.tail("a", "link", 3))
	for _, name := range []string{"link", "hard", "pipe", "folder", "nothing"} {
		_, err := f.open("a", name)
		require.Error(t, err, name)
	}
	// The folder itself must be no link either.
	require.NoError(t, os.Symlink(f.dir("a"), f.dir("b")))
	_, err = f.open("b", "plain")
	require.Error(t, err)
}

func TestFolderUIDs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives microVMs uids of their own")
	}
	f := folder(t.TempDir())
	const base = 1_899_999_000
	for i, id := range []string{"a", "b", "c"} {
		uid, err := f.make(id, true, base, 3)
		require.NoError(t, err)
		require.Equal(t, base+i, uid)
	}
	_, err := f.make("d", true, base, 3)
	require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err), "%v", err)
	require.NoError(t, os.RemoveAll(f.dir("b")))
	uid, err := f.make("d", true, base, 3)
	require.NoError(t, err)
	require.Equal(t, base+1, uid, "the lowest free one")

	// A uid that runs something is not free.
	require.NoError(t, os.RemoveAll(f.dir("d")))
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: base + 1, Gid: base + 1}}
	require.NoError(t, cmd.Start())
	_, err = f.make("e", true, base, 3)
	require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err), "%v", err)
	// By uid alone it is ended where the uid is the microVM's own, and not where it is not.
	found, err := endRemnants(record{UID: base + 1}, "/nowhere", false)
	require.NoError(t, err)
	require.Zero(t, found)
	found, err = endRemnants(record{UID: base + 1}, "/nowhere", true)
	require.NoError(t, err)
	require.Equal(t, 1, found)
	require.Error(t, cmd.Wait())
}

func TestFolderRecords(t *testing.T) {
	f := folder(t.TempDir())
	_, ok := f.readRecord("a")
	require.False(t, ok)
	want := record{ID: "a", Phase: phaseMade, PID: 7, PIDStart: 9, CreatedAt: time.Unix(1, 0).UTC()}
	require.NoError(t, f.writeRecord(want))
	got, ok := f.readRecord("a")
	require.True(t, ok)
	require.Equal(t, want, got)
	// A host that crashed may leave anything in its place.
	for _, rubbish := range []string{"", "{", `{"ID":"b"}`} {
		require.NoError(t, os.WriteFile(f.record("a"), []byte(rubbish), 0o600))
		got, ok = f.readRecord("a")
		require.False(t, ok)
		require.Equal(t, "a", got.ID)
	}
	require.NoError(t, os.WriteFile(f.lock("c"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(string(f), "uids.lock"), nil, 0o600))
	require.NoError(t, os.Mkdir(f.dir("d"), 0o700))
	ids, err := f.known()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"a", "d"}, ids)
	require.NoError(t, f.remove("a"))
	require.NoError(t, f.remove("d"))
	require.NoError(t, f.remove("never"))
	require.False(t, f.exists("a"))
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	stat, err := readStat(cmd.Process.Pid)
	require.NoError(t, err)
	other, err := openProcess(cmd.Process.Pid, stat.start+1)
	require.NoError(t, err)
	require.Nil(t, other, "another process with the same pid")
	p, err := openProcess(cmd.Process.Pid, stat.start)
	require.NoError(t, err)
	require.NotNil(t, p)
	defer p.close()
	require.False(t, p.ended())
	p.kill()
	require.NoError(t, p.wait(t.Context()))
	require.True(t, p.ended())
	p.reap()
	none, err := openProcess(cmd.Process.Pid, stat.start)
	require.NoError(t, err)
	require.Nil(t, none)
	none, err = openProcess(0, 0)
	require.NoError(t, err)
	require.Nil(t, none)
	p.kill() // of a process that is gone: nothing
}

func FuzzParseStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	require.NoError(f, err)
	f.Add(own)
	f.Add([]byte("1 (a) b) ) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"))
	f.Add([]byte(") S"))
	f.Fuzz(func(t *testing.T, b []byte) {
		stat, err := parseStat(b)
		if err == nil {
			require.NotZero(t, stat.state)
		}
	})
}

func FuzzReadSpec(f *testing.F) {
	f.Add([]byte(`{"ID":"a","Dir":"/x","Token":"t","Size":{"VCPUs":1}}`))
	f.Add([]byte(`{"ID":"../a"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		spec, err := readSpec(bytes.NewReader(b))
		if err == nil {
			require.NoError(t, checkID(spec.ID))
			require.True(t, filepath.IsAbs(spec.Dir))
			require.Empty(t, spec.Token, "the plain token is kept beside the secret")
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"error":"x","code":"invalid","hint":"%s%n"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAnswer(bytes.NewReader(b))
		if err == nil && a.Error != "" {
			require.NotEmpty(t, firerunner.CodeOf(a.err()))
			require.Equal(t, a.Hint, firerunner.HintOf(a.err()))
		}
	})
}

func TestAnswer(t *testing.T) {
	require.NoError(t, answerOf(nil).err())
	err := answerOf(firerunner.Errorf(firerunner.Exhausted, "full").WithHint("make room")).err()
	require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err))
	require.Equal(t, "make room", firerunner.HintOf(err))
	require.Equal(t, firerunner.Internal, firerunner.CodeOf(answer{Error: "x", Code: "made up"}.err()))
}

func TestCgroupsV2(t *testing.T) {
	root := t.TempDir()
	write := func(path, content string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(content), 0o644))
	}
	write("fs/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n")
	write("mountinfo", "30 23 0:26 / "+filepath.Join(root, "fs")+" rw,nosuid - cgroup2 cgroup2 rw\n31 23 0:27 / /proc rw - proc proc rw\nrubbish\n")
	write("self", "0::/system.slice/firerunner.service\n")
	cfg := cgroupConfig{MountInfo: filepath.Join(root, "mountinfo"), Self: filepath.Join(root, "self"), Parent: "/firerunner", Installation: "i1"}
	c := findCgroups(cfg)
	require.Empty(t, c.missing())
	require.Equal(t, "memory, cpu, pids (v2)", c.held())
	require.NoError(t, c.make("vm1", limits{MemoryMiB: 768, CPUs: 1.5, Pids: 100}))
	require.NoError(t, c.enter("vm1", 4711))
	for path, want := range map[string]string{
		"fs/cgroup.subtree_control":               "+pids", // the last of three writes
		"fs/firerunner/cgroup.subtree_control":    "+pids",
		"fs/firerunner/i1/cgroup.subtree_control": "+pids",
		"fs/firerunner/i1/vm1/memory.max":         strconv.Itoa(768 << 20),
		"fs/firerunner/i1/vm1/memory.swap.max":    "0",
		"fs/firerunner/i1/vm1/cpu.max":            "150000 100000",
		"fs/firerunner/i1/vm1/pids.max":           "100",
		"fs/firerunner/i1/vm1/cgroup.procs":       "4711",
	} {
		got, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		require.Equal(t, want, string(got), path)
	}
	require.Equal(t, []string{"vm1"}, c.known())
	require.True(t, c.exists("vm1"))
	require.Equal(t, filepath.Join(root, "fs/firerunner/i1/vm1/memory.events"), c.oomFile("vm1"))
}

func TestCgroupsV1(t *testing.T) {
	root := t.TempDir()
	mounts := ""
	for _, controllers := range []string{"memory", "cpu,cpuacct", "pids"} {
		point := filepath.Join(root, controllers)
		require.NoError(t, os.Mkdir(point, 0o755))
		mounts += "30 23 0:26 /docker/abc " + point + " rw - cgroup cgroup rw," + controllers + "\n"
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "mountinfo"), []byte(mounts), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "self"), []byte("3:pids:/elsewhere\n2:cpu,cpuacct:/docker/abc/x\n1:memory:/docker/abc\n"), 0o600))
	c := findCgroups(cgroupConfig{MountInfo: filepath.Join(root, "mountinfo"), Self: filepath.Join(root, "self"), Installation: "i1"})
	require.Equal(t, "memory, cpu, pids (v1)", c.held())
	require.NoError(t, c.make("vm1", limits{MemoryMiB: 1, CPUs: -1, Pids: 5}))
	for path, there := range map[string]bool{
		"memory/firerunner/i1/vm1/memory.limit_in_bytes":       true,
		"memory/firerunner/i1/vm1/memory.memsw.limit_in_bytes": true,
		"cpu,cpuacct/x/firerunner/i1/vm1":                      true,
		"cpu,cpuacct/x/firerunner/i1/vm1/cpu.cfs_quota_us":     false, // no quota
		"pids/firerunner/i1/vm1/pids.max":                      true,  // a group outside of what is mounted here
	} {
		_, err := os.Stat(filepath.Join(root, path))
		require.Equal(t, there, err == nil, path)
	}
	require.Equal(t, filepath.Join(root, "memory/firerunner/i1/vm1/memory.oom_control"), c.oomFile("vm1"))
}

func TestCgroupsMissing(t *testing.T) {
	root := t.TempDir()
	c := findCgroups(cgroupConfig{MountInfo: filepath.Join(root, "none")})
	require.NotEmpty(t, c.missing())
	require.NoError(t, os.WriteFile(filepath.Join(root, "mountinfo"), nil, 0o600))
	c = findCgroups(cgroupConfig{MountInfo: filepath.Join(root, "mountinfo"), Self: filepath.Join(root, "none")})
	require.NotEmpty(t, c.missing())
	require.NoError(t, os.WriteFile(filepath.Join(root, "self"), []byte("rubbish\n0::/\n"), 0o600))
	c = findCgroups(cgroupConfig{MountInfo: filepath.Join(root, "mountinfo"), Self: filepath.Join(root, "self")})
	require.Equal(t, 3, strings.Count(c.missing(), "no cgroup hierarchy"))
	// Without any, everything else still works.
	require.Empty(t, c.held())
	require.NoError(t, c.make("vm1", limits{}))
	require.NoError(t, c.enter("vm1", 1))
	require.NoError(t, c.remove(t.Context(), "vm1"))
	require.Empty(t, c.known())
	require.Empty(t, c.oomFile("vm1"))
	require.False(t, c.exists("vm1"))
}
