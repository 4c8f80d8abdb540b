package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupConfig is where to look for cgroups.
type cgroupConfig struct {
	MountInfo    string // empty = /proc/self/mountinfo
	Self         string // empty = /proc/self/cgroup
	Parent       string // v2 only
	Installation string
}

// findCgroups probes by making the folder in each hierarchy. A host may have both versions mounted; the one that
// holds a controller is the one that is used for it.
func findCgroups(cfg cgroupConfig) *cgroups {
	orString(&cfg.MountInfo, "/proc/self/mountinfo")
	orString(&cfg.Self, "/proc/self/cgroup")
	c := &cgroups{version: "v1"}
	mounts, err := readMounts(cfg.MountInfo)
	if err != nil {
		c.lacks = append(c.lacks, err.Error())
		return c
	}
	self, err := readSelf(cfg.Self)
	if err != nil {
		c.lacks = append(c.lacks, err.Error())
		return c
	}
	for _, controller := range wantedControllers {
		if err := c.find(controller, mounts, self, cfg); err != nil {
			c.lacks = append(c.lacks, fmt.Sprintf("%s: %v", controller, err))
		}
	}
	return c
}

func (c *cgroups) find(controller string, mounts []mount, self map[string]string, cfg cgroupConfig) error {
	for _, m := range mounts {
		if m.v2 || !slices.Contains(m.controllers, controller) {
			continue
		}
		dir := filepath.Join(m.point, inMount(self[controller], m.root), "firerunner", cfg.Installation)
		return c.add(tree{dir: dir, mount: m.point, controllers: []string{controller}})
	}
	for _, m := range mounts {
		if !m.v2 || !slices.Contains(m.controllers, controller) {
			continue
		}
		dir := filepath.Join(m.point, cfg.Parent, cfg.Installation)
		return c.add(tree{dir: dir, mount: m.point, v2: true, controllers: []string{controller}})
	}
	return errors.New("no cgroup hierarchy has this controller")
}

// add uses a tree if its folder can be made.
func (c *cgroups) add(t tree) error {
	if err := t.prepare(); err != nil {
		return err
	}
	if t.v2 {
		c.version = "v2"
	}
	for i := range c.trees {
		if c.trees[i].dir == t.dir { // v2, and v1 controllers that are mounted together
			c.trees[i].controllers = append(c.trees[i].controllers, t.controllers...)
			return nil
		}
	}
	c.trees = append(c.trees, t)
	return nil
}

// leave removes the folders if no microVM has a group in them.
func (c *cgroups) leave() {
	for _, t := range c.trees {
		if unix.Rmdir(t.dir) == nil {
			_ = unix.Rmdir(filepath.Dir(t.dir))
		}
	}
}

func firstBelow(at, dir string) string {
	rel, _ := filepath.Rel(at, dir)
	first, _, _ := strings.Cut(rel, string(filepath.Separator))
	return first
}

// inMount translates a group as /proc/self/cgroup says it into a path below a mount point, which may show only
// a part of the hierarchy (in a container).
func inMount(group, root string) string {
	if root == "/" {
		return group
	}
	if rest, ok := strings.CutPrefix(group, root); ok {
		return rest
	}
	return "/"
}

// mount is one mounted cgroup hierarchy.
type mount struct {
	point, root string
	v2          bool
	controllers []string
}

// readMounts reads proc_pid_mountinfo(5).
func readMounts(path string) ([]mount, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var mounts []mount
	for line := range strings.Lines(string(b)) {
		left, right, ok := strings.Cut(line, " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if !ok || len(before) < 5 || len(after) < 3 {
			continue
		}
		m := mount{root: before[3], point: before[4]}
		switch after[0] {
		case "cgroup":
			m.controllers = strings.Split(after[2], ",")
		case "cgroup2":
			m.v2 = true
			list, _ := os.ReadFile(filepath.Join(m.point, "cgroup.controllers"))
			m.controllers = strings.Fields(string(list))
		default:
			continue
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// readSelf reads /proc/self/cgroup into controller -> group.
func readSelf(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	groups := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			groups[controller] = parts[2]
		}
	}
	return groups, nil
}
