package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// limits are what a microVM's cgroup holds it to.
type limits struct {
	MemoryMiB int
	CPUs      float64 // 0 = no quota
	Pids      int
}

// cpuPeriod is the kernel's default period of a CPU quota, in microseconds.
const cpuPeriod = 100_000

// cgroups makes one group for each microVM: <parent>/firerunner/<installation>/<id>. In v1 the parent is the
// daemon's own group, so that what holds the daemon holds its microVMs too. In v2 a group with processes cannot
// have groups with limits in it, and a restart of the daemon's unit would fail with microVMs below it, so
// there the parent is a group of its own.
type cgroups struct {
	trees   []tree
	lacks   []string // controllers that cannot be had, with the reason
	version string   // the version that holds them: v1 or v2
}

// tree is one hierarchy's folder for our microVMs.
type tree struct {
	dir         string
	mount       string
	v2          bool
	controllers []string
}

// prepare makes the folder. It is made anew whenever it is needed: another driver of this installation may have
// removed it as it ended.
func (t tree) prepare() error {
	if err := os.MkdirAll(t.dir, 0o755); err != nil || !t.v2 {
		return err
	}
	// A controller must be passed on at every level from the mount down.
	for at := t.mount; ; at = filepath.Join(at, firstBelow(at, t.dir)) {
		for _, controller := range t.controllers {
			if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
				return err
			}
		}
		if at == t.dir {
			return nil
		}
	}
}

var wantedControllers = []string{"memory", "cpu", "pids"}

func (c *cgroups) held() string {
	var all []string
	for _, t := range c.trees {
		all = append(all, t.controllers...)
	}
	if len(all) == 0 {
		return ""
	}
	return strings.Join(all, ", ") + " (" + c.version + ")"
}

func (c *cgroups) missing() string { return strings.Join(c.lacks, "; ") }

// make makes the group of a microVM with its limits. One that is there already is given them anew.
func (c *cgroups) make(id string, l limits) error {
	for _, t := range c.trees {
		if err := t.prepare(); err != nil {
			return err
		}
		dir := filepath.Join(t.dir, id)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		for _, controller := range t.controllers {
			for _, s := range settings(controller, t.v2, l) {
				err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0)
				if err != nil && !(s.optional && errors.Is(err, fs.ErrNotExist)) {
					return err
				}
			}
		}
	}
	return nil
}

type setting struct {
	file, value string
	optional    bool // the kernel may be built without it
}

// settings are the files of a controller: cgroups(7), and the kernel's admin-guide/cgroup-v1 and cgroup-v2.
func settings(controller string, v2 bool, l limits) []setting {
	memory := strconv.FormatInt(int64(l.MemoryMiB)<<20, 10)
	quota := strconv.FormatInt(int64(l.CPUs*cpuPeriod), 10)
	period := strconv.Itoa(cpuPeriod)
	pids := strconv.Itoa(l.Pids)
	switch {
	case controller == "memory" && v2:
		return []setting{{"memory.max", memory, false}, {"memory.swap.max", "0", true}}
	case controller == "memory":
		// A limit of memory and swap together that equals the one of memory means no swap.
		return []setting{{"memory.limit_in_bytes", memory, false}, {"memory.memsw.limit_in_bytes", memory, true}}
	case controller == "cpu" && l.CPUs <= 0:
		return nil
	case controller == "cpu" && v2:
		return []setting{{"cpu.max", quota + " " + period, false}}
	case controller == "cpu":
		return []setting{{"cpu.cfs_period_us", period, false}, {"cpu.cfs_quota_us", quota, false}}
	case controller == "pids":
		return []setting{{"pids.max", pids, false}}
	}
	return nil
}

// enter puts a process, and all that it will start, into the group of a microVM.
func (c *cgroups) enter(id string, pid int) error {
	for _, t := range c.trees {
		if err := os.WriteFile(filepath.Join(t.dir, id, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return err
		}
	}
	return nil
}

// oomFile is the file whose line "oom_kill N" counts the processes of the group that the kernel killed for want
// of memory; empty where there is none.
func (c *cgroups) oomFile(id string) string {
	for _, t := range c.trees {
		if slices.Contains(t.controllers, "memory") {
			if t.v2 {
				return filepath.Join(t.dir, id, "memory.events")
			}
			return filepath.Join(t.dir, id, "memory.oom_control")
		}
	}
	return ""
}

// known returns the IDs that have a group.
func (c *cgroups) known() []string {
	var ids []string
	for _, t := range c.trees {
		entries, err := os.ReadDir(t.dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() && idForm.MatchString(e.Name()) && !slices.Contains(ids, e.Name()) {
				ids = append(ids, e.Name())
			}
		}
	}
	return ids
}

func (c *cgroups) exists(id string) bool {
	for _, t := range c.trees {
		if _, err := os.Lstat(filepath.Join(t.dir, id)); err == nil {
			return true
		}
	}
	return false
}

// remove ends every process in the group and removes it. It returns once that is so, or with ctx.
func (c *cgroups) remove(ctx context.Context, id string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var last error
		for _, t := range c.trees {
			dir := filepath.Join(t.dir, id)
			endAll(dir, t.v2)
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				last = &fs.PathError{Op: "rmdir", Path: dir, Err: err}
			}
		}
		if last == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", last, context.Cause(ctx))
		}
	}
}

// endAll kills every process of a group. A pid may be used again between reading and killing: a process is killed
// only if the group still has its pid once we hold on to it.
func endAll(dir string, v2 bool) {
	if v2 && os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	for _, pid := range procs(dir) {
		p, err := openProcess(pid, 0)
		if err != nil || p == nil {
			continue
		}
		if slices.Contains(procs(dir), pid) && pid != os.Getpid() {
			p.kill()
		}
		p.close()
	}
}

func procs(dir string) []int {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}
