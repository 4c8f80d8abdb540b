// Package remains looks for what a FireRunner has left on this machine: processes, files, control groups. It asks nothing
// but the kernel, because what is to be found is what FireRunner itself no longer knows. It is for tests alone.
package remains

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Process is what /proc says of one.
type Process struct {
	PID              int
	Cwd              string
	Cmdline, Environ []byte
}

// Name is the name of its program.
func (p Process) Name() string {
	program, _, _ := strings.Cut(string(p.Cmdline), "\x00")
	return filepath.Base(program)
}

// Processes returns the processes that have a folder's name in their command line, environment or working folder: all
// that a FireRunner started whose state is in it. This one is left out.
func Processes(dir string) []Process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		at := filepath.Join("/proc", e.Name())
		p := Process{PID: pid}
		p.Cmdline, _ = os.ReadFile(filepath.Join(at, "cmdline"))
		p.Environ, _ = os.ReadFile(filepath.Join(at, "environ"))
		p.Cwd, _ = os.Readlink(filepath.Join(at, "cwd"))
		if bytes.Contains(p.Cmdline, []byte(dir)) || bytes.Contains(p.Environ, []byte(dir)) || strings.HasPrefix(p.Cwd, dir) {
			found = append(found, p)
		}
	}
	return found
}

// Files returns the sockets and overlays below a folder.
func Files(dir string) []string {
	var found []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (e.Type()&fs.ModeSocket != 0 || filepath.Ext(path) == ".qcow2") {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// Cgroups returns the control groups of an installation, its own included, the innermost first.
func Cgroups(installation string) []string {
	if installation == "" {
		return nil
	}
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, "/firerunner/"+installation) {
			found = append(found, path)
		}
		return nil
	})
	slices.Reverse(found)
	return found
}
