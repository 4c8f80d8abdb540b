package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

const reaperEnv = "FIREGUEST_TEST_REAPER"

// TestMain lets this program take PID 1's part: a reaper takes every child of its process, those of other tests
// too, so it has a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(reaperEnv) == "" {
		goleak.VerifyTestMain(m)
	}
	r := newReaper()
	for _, script := range []string{"id -u; id -G; grep -E 'NoNewPrivs|CapBnd|CapEff' /proc/self/status; exit 7", "kill -9 $$"} {
		p, err := r.start(command{path: "/bin/sh", args: []string{"sh", "-c", script}, dir: "/", uid: 65534, gid: 65534, output: os.Stdout})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%+v\n", <-p.ended)
	}
	p, err := r.start(command{path: "/bin/sh", args: []string{"sh", "-c", "exec sleep 100"}, dir: "/", uid: 65534, gid: 65534, output: os.Stdout, privileges: true})
	fmt.Println(err, p.signal(syscall.SIGTERM))
	fmt.Printf("%+v\n", <-p.ended)
	_, err = r.start(command{path: "/none", uid: 65534, gid: 65534, output: os.Stdout})
	fmt.Println(err)
}

func TestReaperOK(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root: run the tests as root")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), reaperEnv+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, `65534
65534
CapEff:	0000000000000000
CapBnd:	0000000000000000
NoNewPrivs:	1
{exitCode:7 signal:}
{exitCode:-1 signal:SIGKILL}
<nil> <nil>
{exitCode:-1 signal:SIGTERM}
start /none: no such file or directory
`, string(out))
}

func TestMainVersionOK(t *testing.T) {
	bin := t.TempDir() + "/fireguest"
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(bin, "--version").Output()
	require.NoError(t, err)
	require.Regexp(t, `^fireguest \S+\n$`, string(out))
	require.Error(t, exec.Command(bin).Run(), "it is no program for people")
}
