// Package e2e tests the whole product from outside: a daemon as users start it, microVMs that really boot, the real
// gitlab-runner in them, and an emulated GitLab that can be told to misbehave.
//
// Each test has a site: a GitLab, a daemon with a state folder of its own, and an observer that looks for secrets
// while jobs run. When a test ends, nothing of its site may be left anywhere: see quiet_test.go.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/qemu"
	"github.com/firerunner/firerunner/internal/image"
)

// patience is how long a test waits for what must come. It is far longer than anything takes, because a machine may
// be busy; where time is the point, the test says its own.
const patience = 10 * time.Minute

// product is what is under test. TestMain makes it; tests only read it.
type product struct {
	skip string // why there are no microVMs here; empty = there are

	released string // bin/firerunner: the shims, and what people run
	daemon   string // the same source with the race detector and coverage
	root     string // of the source
	coverDir string // where daemons leave their coverage
	imageDir string
	image    firerunner.Image
	accel    string // kvm or tcg: found out once, so that no site has to
}

var under product

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "e2e: there is no QEMU, and CI never skips: apt-get install qemu-system-x86 qemu-utils")
			return 1
		}
		under.skip = "no real microVM without QEMU: apt-get install qemu-system-x86 qemu-utils"
	} else if testing.Short() {
		under.skip = "boots real microVMs: left out by -short"
	}
	if under.skip == "" {
		dir, err := os.MkdirTemp("", "fr-e2e-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = under.prepare(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
	}
	return code
}

// prepare finds or makes all that a site needs. dir is for what lasts as long as this run.
func (p *product) prepare(dir string) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	bin := os.Getenv("FIRERUNNER_BIN")
	if bin == "" { // not started by make: have make see to it that programs and image are those of this tree
		if err := command(root, nil, "make", "--no-print-directory", "image"); err != nil {
			return err
		}
		bin = filepath.Join(root, "bin")
	}
	p.released = filepath.Join(bin, "firerunner")
	// The go command keeps a test's result until a file changes that the test has looked at. What is under test is
	// made by other commands, so it has to be looked at.
	if _, err := os.Stat(p.released); err != nil {
		return err
	}
	if err := p.findImage(bin); err != nil {
		return err
	}
	if p.coverDir = os.Getenv("FIRERUNNER_COVERDIR"); p.coverDir == "" {
		p.coverDir = filepath.Join(dir, "cover")
	}
	if err := os.MkdirAll(p.coverDir, 0o755); err != nil {
		return err
	}
	if _, err := os.ReadDir(p.coverDir); err != nil { // the coverage of a kept result must still be there, too
		return err
	}
	p.daemon, p.root = filepath.Join(dir, "firerunner"), root
	if err := p.build(p.daemon, ""); err != nil {
		return err
	}
	return p.decideAccel(dir)
}

// build builds a daemon that says that it is of this version; empty: the tree's own.
func (p *product) build(to, version string) error {
	return command(p.root, nil, "go", "build", "-race", "-gcflags=modernc.org/sqlite/lib=-d=checkptr=0 -race=false",
		"-gcflags=compress/flate=-race=false", "-cover", "-covermode=atomic", "-coverpkg=./...", "-ldflags=-X main.version="+version,
		"-o", to, "./cmd/firerunner")
}

// nextVersion is the version of another build.
const nextVersion = "99.0.0-next"

// next builds another daemon: a program of its own, as after an upgrade.
func (p *product) next(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "firerunner-next")
	require.NoError(t, p.build(program, nextVersion))
	return program
}

// cacheDir is where things are kept that are expensive to make.
func cacheDir() string {
	if dir := os.Getenv("FIRERUNNER_CACHE"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/cache/firerunner" // where the users of microVMs can read it: see the Makefile
	}
	return filepath.Join(os.Getenv("HOME"), ".cache", "firerunner")
}

// findImage resolves the image "default", and builds it where it is missing.
func (p *product) findImage(bin string) error {
	p.imageDir = os.Getenv("FIRERUNNER_IMAGE_DIR")
	if p.imageDir == "" {
		p.imageDir = filepath.Join(cacheDir(), "images")
	}
	store := &image.Store{Dir: p.imageDir}
	var err error
	if p.image, err = store.Resolve(context.Background(), "default"); firerunner.CodeOf(err) == firerunner.NotFound {
		environ := append(os.Environ(), "FIRERUNNER_IMAGE_DIR="+p.imageDir)
		if err := command(bin, environ, p.released, "image", "build", "--gitlab-runner", filepath.Join(bin, "gitlab-runner")); err != nil {
			return err
		}
		p.image, err = store.Resolve(context.Background(), "default")
	}
	return err
}

// decideAccel asks the driver once which accelerator works on this machine.
func (p *product) decideAccel(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := qemu.New(qemu.Config{StateDir: filepath.Join(dir, "probe"), ProbeImage: &p.image, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer d.Close()
	p.accel, _, err = d.Accelerator(ctx)
	return err
}

// command runs a program and says what it said if it fails.
func command(dir string, environ []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, environ
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
