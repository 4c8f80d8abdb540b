package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/image"
)

// bootingDeadline is short in the test of just this deadline. A good guest must make it too, on a busy machine.
const bootingDeadline = 20 * time.Second

// TestBrokenGuests boots a guest whose kernel panics, which is seen at once and not at the deadline, and then one that never
// says hello. The third takes the job, and its kernel panics under that: GitLab is told, and its retry runs in a good one.
func TestBrokenGuests(t *testing.T) {
	t.Parallel()
	initrd := newInitrd(t)
	s := newSite(t, options{settings: append(initrd.settings(), "deadlines.booting="+bootingDeadline.String())})
	initrd.breaks("panics")
	j := s.only(`patient:
  retry: {max: 1, when: [runner_system_failure]}
  script:
    - echo begun
    - if [ "$(cat /proc/sys/vm/panic_on_oom)" != 0 ]; then sleep 2; tail /dev/zero; fi
`)
	panicked := s.ended(s.inState(firerunner.Booting).ID, firerunner.Rejected, firerunner.ReasonVMExited)
	require.Contains(t, panicked.Message, "kernel panic")
	require.Zero(t, panicked.JobID)

	initrd.breaks("silent") // whoever was quicker than this panics, too
	silent := s.rejected(firerunner.ReasonDeadline)
	require.Zero(t, silent.JobID)
	booted := s.events(firerunner.EventQuery{RunnerID: silent.ID, Kinds: []firerunner.EventKind{firerunner.EventMoved}})
	for _, e := range booted {
		if e.From == firerunner.Booting {
			require.GreaterOrEqual(t, e.Took, bootingDeadline)
		}
	}

	initrd.breaks("panics later") // and whoever was quicker than this is as silent
	s.says(j.ID, "begun")
	initrd.works()
	late := s.row(j.ID)
	s.failedFor(j.ID, late.ID, firerunner.ReasonVMExited)
	require.Contains(t, s.ended(late.ID, firerunner.Failed, firerunner.ReasonVMExited).Message, "kernel panic")
	for _, again := range s.gitlab.Jobs(gitlabtest.JobFilter{}) {
		if again.ID != j.ID {
			require.Equal(t, j.ID, again.RetryOf)
			s.succeeded(again.ID)
			require.NotContains(t, []string{panicked.ID, silent.ID, late.ID}, s.row(again.ID).ID)
		}
	}
	require.Len(t, s.gitlab.Jobs(gitlabtest.JobFilter{}), 2)
}

// rejected waits for a runner that was rejected for a reason.
func (s *site) rejected(why firerunner.Reason) (found firerunner.Runner) {
	s.t.Helper()
	s.eventually("a runner rejected for "+string(why), func() bool {
		for _, found = range s.rows(firerunner.RunnerQuery{}) {
			if found.State == firerunner.Gone && found.Outcome == firerunner.Rejected && found.Reason == why {
				return true
			}
		}
		return false
	})
	return found
}

// initrd is the initial RAM disk of a site: a link that is turned from one to another.
type initrd struct {
	t    *testing.T
	dir  string
	link string
	init []byte
}

func newInitrd(t *testing.T) *initrd {
	t.Helper()
	if under.skip != "" {
		t.Skip(under.skip)
	}
	dir, err := os.MkdirTemp("/tmp", "fr-initrd-") // where the users of microVMs can read it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	program := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	init, err := os.ReadFile(program)
	require.NoError(t, err)
	return &initrd{t: t, dir: dir, link: filepath.Join(dir, "initrd"), init: init}
}

// settings make a site boot files in place of an image.
func (i *initrd) settings() []string {
	return []string{"vm.kernel_image=" + under.image.Kernel, "vm.rootfs_image=" + under.image.RootFS, "vm.initrd_image=" + i.link}
}

// breaks turns the link to a RAM disk that goes wrong: see testdata/init.
func (i *initrd) breaks(how string) {
	i.t.Helper()
	var archive bytes.Buffer
	if how == "panics later" { // it goes on as the image's own: that comes first, and of two files the later one stays
		agent, err := os.ReadFile(filepath.Join(filepath.Dir(under.released), "fireguest"))
		require.NoError(i.t, err)
		own, err := os.ReadFile(under.image.Initrd)
		require.NoError(i.t, err)
		archive.Write(own)
		archive.Write(make([]byte, -len(own)&511))
		require.NoError(i.t, image.WriteCPIO(&archive, []image.Entry{
			{Path: "init", Mode: image.TypeFile | 0o755, Data: i.init},
			{Path: "modules/fault", Mode: image.TypeFile | 0o600, Data: []byte(how)},
			{Path: "modules/fireguest", Mode: image.TypeFile | 0o755, Data: agent},
		}))
	} else {
		require.NoError(i.t, image.Initramfs(&archive, i.init, []image.Module{{Name: "fault", Data: []byte(how + "\n")}}))
	}
	path := filepath.Join(i.dir, how)
	require.NoError(i.t, os.WriteFile(path, archive.Bytes(), 0o644))
	i.turn(path)
}

// works turns the link to the image's own.
func (i *initrd) works() { i.turn(under.image.Initrd) }

func (i *initrd) turn(to string) {
	i.t.Helper()
	next := filepath.Join(i.dir, "next")
	require.NoError(i.t, os.Symlink(to, next))
	require.NoError(i.t, os.Rename(next, i.link))
}
