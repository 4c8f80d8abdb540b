package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
)

// scripted makes a microVM whose guest follows one of the scripts of drivertest's guest.
func scripted(t *testing.T, d *Driver, image firerunner.Image, script string, change func(*firerunner.MicroVMSpec)) string {
	t.Helper()
	id := "vm-" + script
	spec := newSpec(id, image)
	spec.Start.Name = script
	if change != nil {
		change(&spec)
	}
	_, err := d.Create(t.Context(), spec)
	require.NoError(t, err)
	return id
}

func last(reports []firerunner.GuestReport) firerunner.GuestReport { return reports[len(reports)-1] }

// TestMachine looks at what a guest has, and at what it can do to its host.
func TestMachine(t *testing.T) {
	needQEMU(t)
	image := drivertest.Image(t)

	t.Run("Look", func(t *testing.T) {
		// One microVM for everything that only looks.
		d := newDriver(t, nil)
		id := scripted(t, d, image, "facts", func(s *firerunner.MicroVMSpec) {
			s.Size, s.Network.Public = firerunner.Size{VCPUs: 2, MemoryMiB: 300}, true
		})
		reports := until(t, d, id, firerunner.ReportStarted)
		t.Run("Facts", func(t *testing.T) { checkFacts(t, reports[1]) })
		t.Run("Network", func(t *testing.T) { checkNetwork(t, d, id) })
		t.Run("Secrets", func(t *testing.T) { checkSecrets(t, d, id) })
		t.Run("Isolation", func(t *testing.T) { checkIsolation(t, d, id, image) })
		t.Run("QEMUKilled", func(t *testing.T) {
			shim := recordOf(t, d, id).PID
			for _, pid := range processesOf(t, d, id) {
				if pid != shim {
					require.NoError(t, unix.Kill(pid, unix.SIGKILL))
				}
			}
			end := last(until(t, d, id, firerunner.ReportExited))
			require.Equal(t, "qemu was killed by signal 9 (killed)", end.Message)
		})
	})
	t.Run("Disk", func(t *testing.T) {
		d := newDriver(t, nil)
		before, err := os.ReadFile(image.RootFS)
		require.NoError(t, err)
		id := scripted(t, d, image, "disk", nil)
		reports := until(t, d, id, firerunner.ReportStarted)
		// The image's own 64 MiB, and 16 MiB to write.
		require.Equal(t, fmt.Sprintf("disk %d", (64+16)<<20), reports[1].Message)
		after, err := os.ReadFile(image.RootFS)
		require.NoError(t, err)
		require.True(t, bytes.Equal(before, after), "a guest wrote to its image")
		// The disk is gone as soon as the machine is.
		require.NoError(t, d.Order(t.Context(), id, firerunner.OrderFinish))
		until(t, d, id, firerunner.ReportExited)
		require.Eventually(t, func() bool {
			_, err := os.Stat(filepath.Join(d.vms.dir(id), overlayFile))
			return os.IsNotExist(err)
		}, 10*time.Second, 10*time.Millisecond)
	})
	t.Run("ConsoleCapped", func(t *testing.T) {
		d := newDriver(t, func(c *Config) { c.ConsoleBytes = 10_000 })
		id := scripted(t, d, image, "flood-console", nil)
		until(t, d, id, firerunner.ReportStarted)
		console, err := d.Console(t.Context(), id)
		require.NoError(t, err)
		defer console.Close()
		b, err := io.ReadAll(console)
		require.NoError(t, err)
		require.Contains(t, string(b), "test guest is up")
		require.Contains(t, string(b), "is dropped]")
		require.InDelta(t, 10_000, len(b), 100)
		s, err := newShimClient(d.vms.socket(id), recordOf(t, d, id).UID).state(t.Context())
		require.NoError(t, err)
		require.Greater(t, s.Console, int64(500_000), "the guest did not flood")
	})
	t.Run("ReportsCapped", func(t *testing.T) {
		d := newDriver(t, func(c *Config) { c.ReportBytes = 50_000 })
		id := scripted(t, d, image, "flood-reports", nil)
		require.Eventually(t, func() bool { return d.Order(t.Context(), id, firerunner.OrderFinish) == nil }, time.Minute, 100*time.Millisecond)
		reports := until(t, d, id, firerunner.ReportExited)
		require.Less(t, len(reports), 100)
		require.Equal(t, firerunner.ReportRunnerExited, reports[len(reports)-3].Kind, "a flood of notices hid the end")
		require.Contains(t, reports[len(reports)-2].Message, "were dropped")
		info, err := os.Stat(filepath.Join(d.vms.dir(id), reportsFile))
		require.NoError(t, err)
		require.Less(t, info.Size(), int64(60_000))
	})
	t.Run("MemoryCapped", func(t *testing.T) {
		// Too little for qemu with all of the guest's memory: the kernel must end qemu and nothing else.
		d := newDriver(t, func(c *Config) { c.MemoryOverheadMiB = -200 })
		if !strings.Contains(d.Limits().Cgroups, "memory") {
			t.Skipf("memory limits need cgroups, and this host gives none: %s", d.Limits().Missing)
		}
		id := scripted(t, d, image, "eat-memory", func(s *firerunner.MicroVMSpec) { s.Size.MemoryMiB = 512 })
		end := last(until(t, d, id, firerunner.ReportExited))
		require.Equal(t, "killed for want of memory: qemu and shim reached the limit of 312 MiB", end.Message)
		require.Equal(t, 128+9, end.ExitCode)
	})
	t.Run("Panic", func(t *testing.T) {
		d := newDriver(t, nil)
		id := scripted(t, d, image, "panic", nil)
		end := last(until(t, d, id, firerunner.ReportExited))
		require.Contains(t, end.Message, "kernel panic in the guest: Attempted to kill init!")
		require.Zero(t, end.ExitCode, "qemu exits with 0 after a panic; the report says the fact")
	})
	t.Run("StuckAtDeadline", func(t *testing.T) {
		d := newDriver(t, func(c *Config) { c.StopGrace = 500 * time.Millisecond })
		id := scripted(t, d, image, "quiet", func(s *firerunner.MicroVMSpec) { s.Deadline = time.Now().Add(4 * time.Second) })
		shim := recordOf(t, d, id).PID
		for _, pid := range processesOf(t, d, id) {
			if pid != shim {
				require.NoError(t, unix.Kill(pid, unix.SIGSTOP), "qemu can no longer end when asked")
			}
		}
		end := last(until(t, d, id, firerunner.ReportExited))
		require.Equal(t, string(causeDeadline), end.Message)
		require.Equal(t, 128+9, end.ExitCode)
		// The shim has ended with it; what it knew is read from its file.
		require.Eventually(t, func() bool { return !running(recordOf(t, d, id)) }, 20*time.Second, 20*time.Millisecond)
		require.Equal(t, end, last(until(t, d, id, firerunner.ReportExited)))
	})
	t.Run("Linger", func(t *testing.T) {
		d := newDriver(t, func(c *Config) { c.Linger = 200 * time.Millisecond })
		id := scripted(t, d, image, "job", nil)
		reports := until(t, d, id, firerunner.ReportExited)
		require.Equal(t, "the guest turned its machine off", last(reports).Message)
		took := reports[slices.IndexFunc(reports, func(r firerunner.GuestReport) bool { return r.Kind == firerunner.ReportTookJob })]
		require.EqualValues(t, drivertest.JobID, took.JobID)
		require.Equal(t, drivertest.JobKey, took.JobKey)
		require.Eventually(t, func() bool { return !running(recordOf(t, d, id)) }, 20*time.Second, 20*time.Millisecond)
		require.Equal(t, reports, until(t, d, id, firerunner.ReportExited))
		require.NoFileExists(t, d.vms.socket(id))
	})
	t.Run("ShimHangs", func(t *testing.T) {
		d := newDriver(t, nil)
		id := scripted(t, d, image, "quiet", nil)
		require.NoError(t, unix.Kill(recordOf(t, d, id).PID, unix.SIGSTOP))
		vms, err := d.List(t.Context())
		require.NoError(t, err)
		require.True(t, vms[0].Alive, "a shim that does not answer is believed to live")
		begin := time.Now()
		require.NoError(t, d.Destroy(t.Context(), id))
		require.Less(t, time.Since(begin), askWait+5*time.Second)
		require.Empty(t, leftovers(t, d, id))
	})
	t.Run("KVMThatNeverBoots", func(t *testing.T) {
		if _, err := os.Stat("/dev/kvm"); err != nil {
			t.Skipf("without the device no boot is tried: %v", err)
		}
		// A QEMU that takes KVM and then stands still, as on a machine whose KVM is broken.
		real, err := findProgram("qemu-system-x86_64")
		require.NoError(t, err)
		hanging := filepath.Join(filepath.Dir(image.Kernel), "qemu-hanging")
		require.NoError(t, os.WriteFile(hanging, []byte("#!/bin/sh\ncase \"$*\" in *'-accel kvm'*) exec sleep 600;; esac\nexec "+real+" \"$@\"\n"), 0o755))
		d := newDriver(t, func(c *Config) { c.Accel, c.QEMU, c.KVMProbe = AccelAuto, hanging, time.Second })
		_, err = d.Create(t.Context(), newSpec("vm", image))
		require.NoError(t, err, "a job's own image is tried if there is no other")
		accel, reason, err := d.Accelerator(t.Context())
		require.NoError(t, err)
		require.Equal(t, AccelTCG, accel)
		require.Contains(t, reason, "the kernel said nothing within 1s")
	})
	t.Run("Accelerator", func(t *testing.T) {
		d := newDriver(t, func(c *Config) { c.Accel, c.ProbeImage, c.KVMProbe = AccelAuto, &image, 4*time.Second })
		accel, reason, err := d.Accelerator(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, reason)
		require.NoError(t, d.Probe(t.Context()), "%s: %s", accel, reason)
		t.Logf("%s: %s", accel, reason)
		// A second driver on the same host need not try again.
		again, err := New(Config{StateDir: d.cfg.StateDir})
		require.NoError(t, err)
		defer again.Close()
		begin := time.Now()
		accel2, reason2, err := again.Accelerator(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{accel, reason}, []string{accel2, reason2})
		require.Less(t, time.Since(begin), 3*time.Second)
	})
}

func recordOf(t testing.TB, d *Driver, id string) record {
	t.Helper()
	rec, ok := d.vms.readRecord(id)
	require.True(t, ok)
	return rec
}

// processesOf returns the shim and qemu of a microVM.
func processesOf(t *testing.T, d *Driver, id string) (pids []int) {
	t.Helper()
	session := recordOf(t, d, id).PID
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if stat, err := readStat(pid); err == nil && stat.session == session {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// TestCreateErrors: what goes wrong is said, with a remedy, and leaves nothing.
func TestCreateErrors(t *testing.T) {
	needQEMU(t)
	image := drivertest.Image(t)
	closed := filepath.Join(t.TempDir(), "kernel") // a folder that only its owner can pass
	require.NoError(t, os.Link(image.Kernel, closed))
	notKernel := filepath.Join(filepath.Dir(image.Kernel), "not-a-kernel")
	require.NoError(t, os.WriteFile(notKernel, []byte("hello"), 0o644))
	for name, c := range map[string]struct {
		change func(*Config, *firerunner.MicroVMSpec)
		code   firerunner.Code
		says   string
		hint   string
		asRoot bool
	}{
		"no qemu": {
			change: func(c *Config, _ *firerunner.MicroVMSpec) { c.QEMU = "qemu-that-is-not" },
			code:   firerunner.Unavailable, says: "qemu-that-is-not", hint: "apt-get install",
		},
		"no qemu-img": {
			change: func(c *Config, _ *firerunner.MicroVMSpec) { c.QEMUImg = "qemu-img-that-is-not" },
			code:   firerunner.Unavailable, says: "qemu-img-that-is-not", hint: "apt-get install",
		},
		"no shim": {
			change: func(c *Config, _ *firerunner.MicroVMSpec) { c.Shim = []string{"/bin/false"} },
			code:   firerunner.Unavailable, says: "shim",
		},
		"no kernel": {
			change: func(_ *Config, s *firerunner.MicroVMSpec) { s.Image.Kernel = "/no/such/kernel" },
			code:   firerunner.Invalid, says: "/no/such/kernel", hint: "must exist",
		},
		"a kernel that the uid cannot read": {
			change: func(_ *Config, s *firerunner.MicroVMSpec) { s.Image.Kernel = closed },
			code:   firerunner.Unavailable, says: "permission denied", hint: "chmod", asRoot: true,
		},
		"an id that is too long": {
			change: func(c *Config, s *firerunner.MicroVMSpec) { s.ID = strings.Repeat("x", 64) },
			code:   firerunner.Invalid, says: "at most 63",
		},
		"a socket path that is too long": {
			change: func(c *Config, s *firerunner.MicroVMSpec) {
				c.StateDir = filepath.Join(c.StateDir, strings.Repeat("d", 40))
				s.ID = strings.Repeat("x", 63)
			},
			code: firerunner.Invalid, says: "possible", hint: "shorter",
		},
		"a relative kernel": {
			change: func(_ *Config, s *firerunner.MicroVMSpec) { s.Image.Kernel = "kernel" },
			code:   firerunner.Invalid, says: "absolute",
		},
		"no kernel at all": {
			change: func(_ *Config, s *firerunner.MicroVMSpec) { s.Image.Kernel = "" },
			code:   firerunner.Invalid, says: "no kernel",
		},
		"too many vcpus": {
			change: func(_ *Config, s *firerunner.MicroVMSpec) { s.Size.VCPUs = 1000 },
			code:   firerunner.Invalid, says: "1000 vCPUs",
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := newSpec("wrong", image)
			d := newDriver(t, func(cfg *Config) { c.change(cfg, &spec) })
			if c.asRoot && !d.root {
				t.Skip("only root gives microVMs uids of their own")
			}
			_, err := d.Create(t.Context(), spec)
			require.Equal(t, c.code, firerunner.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.Contains(t, firerunner.HintOf(err), c.hint)
			require.NotContains(t, err.Error(), testToken)
			require.Empty(t, leftovers(t, d, "wrong"))
			vms, err := d.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, vms)
		})
	}
	t.Run("a file that is no kernel", func(t *testing.T) {
		// qemu finds that out itself, after the shim's word that it runs.
		d := newDriver(t, nil)
		spec := newSpec("wrong", image)
		spec.Image.Kernel = notKernel
		_, err := d.Create(t.Context(), spec)
		require.NoError(t, err)
		end := last(until(t, d, spec.ID, firerunner.ReportExited))
		require.Equal(t, 1, end.ExitCode)
		require.Contains(t, end.Message, "kernel")
	})
}

// TestProbeErrors: the probe fails where a microVM would.
func TestProbeErrors(t *testing.T) {
	needQEMU(t)
	image := drivertest.Image(t)
	broken := image
	broken.Kernel = image.Initrd
	for name, change := range map[string]func(*Config){
		"ErrNoQEMU":    func(c *Config) { c.QEMU = "qemu-that-is-not" },
		"ErrNoQEMUImg": func(c *Config) { c.QEMUImg = "qemu-img-that-is-not" },
		"ErrNotQEMU":   func(c *Config) { c.QEMU = "false" },
		"ErrNoBoot":    func(c *Config) { c.ProbeImage = &broken },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, change)
			err := d.Probe(t.Context())
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), "%v", err)
		})
	}
	t.Run("OKWithoutImage", func(t *testing.T) { require.NoError(t, newDriver(t, nil).Probe(t.Context())) })
	t.Run("ErrUnknownAccelerator", func(t *testing.T) {
		d := newDriver(t, func(c *Config) { c.Accel = AccelAuto })
		_, _, err := d.Accelerator(t.Context())
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), "%v", err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, d.Probe(ctx))
	})
}
