package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/image"
)

const testToken = "glrt-testtoken1234567890"

func testStart(c *coordinator) firerunner.GuestStart {
	return firerunner.GuestStart{
		GitLabURL: c.guestURL(), Token: testToken, Name: "r-1", MachineID: strings.Repeat("0123abcd", 4), Hostname: "fr-1",
		Network:     firerunner.GuestNetwork{Address: "10.42.0.2/24", Gateway: "10.42.0.1", DNS: "10.42.0.1", MTU: 1500},
		WaitTimeout: time.Minute,
	}
}

// TestBootOK boots a real microVM, runs one real job in it, and shows where the time went.
func TestBootOK(t *testing.T) {
	img := testImage(t, image.Recipe{Name: "test"})
	gitlab := newCoordinator(t, shellJob(1001, "alpine:3",
		"echo user=$(id -un) host=$(hostname) machine=$(cat /etc/machine-id)",
		"cat /run/firerunner/private/config.toml && echo CONFIG-THERE || echo config-gone",
		"env | grep -c glrt- || echo env-clean",
		"cat /dev/vport* && echo PORT-OPEN || echo port-closed",
		"cat /proc/1/cmdline 2>/dev/null && echo INIT-SEEN || echo init-hidden",
		"grep -H NoNewPrivs /proc/self/status; grep CapBnd /proc/self/status",
		"dd if=/proc/$PPID/mem bs=1 count=1 skip=4096 2>&1 | tail -n1 || :",
		"df -h / /tmp /run /dev/shm; cat /proc/uptime; date -u +now=%s",
		"exit 3"))
	v := bootVM(t, img, testStart(gitlab))
	done := v.wait(t, firerunner.ReportJobDone)
	exited := v.wait(t, firerunner.ReportRunnerExited)
	ended := v.end(t)
	asked, token := gitlab.firstAsked()
	require.Equal(t, testToken, token)
	t.Logf("phases of the guest, seconds since the kernel started:")
	for _, m := range regexp.MustCompile(`fireguest: (.*) ([0-9.]+)`).FindAllStringSubmatch(v.console.text(), -1) {
		t.Logf("  %-12s %s", m[1], m[2])
	}
	t.Logf("seen from the host, seconds since the start of QEMU, and QEMU's processor time until then:")
	for i, r := range v.reports {
		t.Logf("  %-14s %.3f  %.2f", r.Kind, r.At.Sub(v.began).Seconds(), v.cpu[i].Seconds())
	}
	t.Logf("  %-14s %.3f", "runner asks", asked.Sub(v.began).Seconds())
	t.Logf("  %-14s %.3f", "QEMU exited", ended.Sub(v.began).Seconds())

	require.Equal(t, int64(1001), done.JobID)
	require.False(t, done.Success)
	require.Equal(t, "script_failure", done.Failure)
	require.Equal(t, 3, done.ExitCode)
	require.Zero(t, exited.ExitCode)
	require.Equal(t, "failed", gitlab.final()["state"])
	log := gitlab.log()
	for _, want := range []string{
		"user=ci host=fr-1 machine=" + strings.Repeat("0123abcd", 4), "config-gone", "env-clean", "port-closed", "init-hidden",
		"CapBnd:\t0000000000000000", `the image "alpine:3" that this job asks for is not used`,
	} {
		require.Contains(t, log, want)
	}
	require.Regexp(t, `NoNewPrivs:\s*1`, log)
	require.NotContains(t, log, testToken)
	notices := v.all(firerunner.ReportNotice)
	require.Len(t, notices, 1, "%+v", notices)
	require.Equal(t, "image not used: alpine:3", notices[0].Message)
	require.Len(t, v.all(firerunner.ReportHello), 1)

	if testing.Verbose() {
		t.Logf("job log:\n%s", log)
	}
}

// TestBootStop ends a job by order: GitLab hears of it, and the microVM ends.
func TestBootStop(t *testing.T) {
	img := testImage(t, image.Recipe{Name: "test"})
	gitlab := newCoordinator(t, shellJob(1002, "", "sleep 600"))
	v := bootVM(t, img, testStart(gitlab))
	v.wait(t, firerunner.ReportTookJob)
	v.orders <- firerunner.OrderStop
	done := v.wait(t, firerunner.ReportJobDone)
	require.False(t, done.Success)
	require.Equal(t, "runner_interrupted", done.Failure)
	require.Equal(t, "stopped by order", v.wait(t, firerunner.ReportRunnerExited).Message)
	v.end(t)
	require.Equal(t, "failed", gitlab.final()["state"])
}

// TestBootRefused: a credential that GitLab does not know ends the microVM at once, not after the 300 s that
// gitlab-runner would sleep.
func TestBootRefused(t *testing.T) {
	img := testImage(t, image.Recipe{Name: "test"})
	gitlab := newCoordinator(t, nil)
	gitlab.refuse = true
	v := bootVM(t, img, testStart(gitlab))
	require.Equal(t, "GitLab refuses the runner's credential", v.wait(t, firerunner.ReportError).Message)
	v.wait(t, firerunner.ReportRunnerExited)
	v.end(t)
}
