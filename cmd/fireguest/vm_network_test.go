package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/image"
)

// networkVM boots a microVM as Flintlock lays it out: no device to the host, eth0 with the metadata service and nothing
// else, eth1 with DHCP and a way out. It returns QEMU's console and a channel that says when QEMU has ended.
func networkVM(t *testing.T, img firerunner.Image, disk, answer string) (*consoleLog, <-chan error) {
	t.Helper()
	cmdline := strings.TrimSpace("console=ttyS0 reboot=k panic=1 quiet tsc_early_khz=" + tscKHz(t) + " tsc=reliable " + img.Cmdline)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "microvm,rtc=on", "-accel", "tcg,tb-size=64", "-cpu", "max", "-m", "1024",
		"-kernel", img.Kernel, "-initrd", img.Initrd, "-append", cmdline,
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio",
		"-drive", "id=d0,file="+disk+",format=qcow2,if=none,cache=unsafe", "-device", "virtio-blk-device,drive=d0",
		"-netdev", "user,id=n0,net=169.254.0.0/16,restrict=on,guestfwd=tcp:169.254.169.254:80-cmd:cat "+answer,
		"-device", "virtio-net-device,netdev=n0,mac="+metadataMAC,
		"-netdev", "user,id=n1,net=10.42.0.0/24,host=10.42.0.1,dns=10.42.0.3", "-device", "virtio-net-device,netdev=n1",
		"-object", "rng-random,id=r0,filename=/dev/urandom", "-device", "virtio-rng-device,rng=r0",
	)
	con := &consoleLog{}
	cmd.Stdout, cmd.Stderr = con, con
	require.NoError(t, cmd.Start())
	ended, over := make(chan error, 1), make(chan struct{})
	go func() { defer close(over); ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		<-over
		if t.Failed() {
			t.Logf("console:\n%s", con.text())
		}
	})
	return con, ended
}

// TestBootNetworkOK boots a real microVM that has no device to its host: it finds the endpoint by the metadata, gets
// an address by DHCP, says hello over TLS, runs one job that cannot find the metadata any more, and ends. Booted again
// on its old disk it is refused and turns itself off.
func TestBootNetworkOK(t *testing.T) {
	img := testImage(t, image.Recipe{Name: "test"})
	gitlab := newCoordinator(t, shellJob(1003, "",
		"(exec 3<>/dev/tcp/169.254.169.254/80) && echo metadata=$((1)) || echo metadata=$((0))",
		"echo eth0=$(cat /sys/class/net/eth0/operstate) eth1=$(cat /sys/class/net/eth1/operstate) $(cat /etc/resolv.conf)",
		"echo host=$(hostname)"))
	start := testStart(gitlab)
	start.Network = firerunner.GuestNetwork{} // what DHCP gave is kept
	d := newDesk(start)
	port, certificate := endpoint(t, d)
	dir := t.TempDir()
	answer := filepath.Join(dir, "answer")
	text := metadataFor(t, net.JoinHostPort("10.42.0.1", port), certificate)
	require.NoError(t, os.WriteFile(answer, []byte(answerOf(text)), 0o600))
	info, err := os.Stat(img.RootFS)
	require.NoError(t, err)
	// Not larger than the image: a file system that is grown and then cut off cannot be mounted a second time. (That
	// ends a microVM just as well, but it is not what is tested here.)
	disk := overlay(t, img, info.Size())

	began := time.Now()
	con, ended := networkVM(t, img, disk, answer)
	d.until(t, firerunner.ReportHello)
	t.Logf("hello after %.3f s", time.Since(began).Seconds())
	require.True(t, d.until(t, firerunner.ReportJobDone).Success)
	require.Zero(t, d.until(t, firerunner.ReportRunnerExited).ExitCode)
	require.NoError(t, <-ended)
	t.Logf("QEMU exited after %.3f s; console:\n%s", time.Since(began).Seconds(), con.text())
	log := gitlab.log()
	require.Contains(t, log, "No route to host")
	require.Contains(t, log, "metadata=0\n")
	require.Contains(t, log, "eth0=down eth1=up nameserver 10.42.0.3\n")
	require.Contains(t, log, "host=fr-1")
	require.Contains(t, d.printed(), "fireguest: ended")
	require.NotContains(t, con.text(), oneTimeToken)

	con, ended = networkVM(t, img, disk, answer)
	require.NoError(t, <-ended)
	require.Contains(t, con.text(), "it was booted before: it turns itself off")
	require.NotContains(t, con.text(), "fireguest: start")
	require.Empty(t, d.reports)
}
