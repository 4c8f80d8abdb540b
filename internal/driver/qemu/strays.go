package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/firerunner/firerunner"
)

// strays returns the IDs of microVMs that have nothing left but processes: folder, record and cgroup are gone, as after
// somebody removed them by hand. Such a process is known by its uid, one of those for microVMs, together with the home
// folder that it was given. A hostile one may say that its home is another; then it names itself.
func (d *Driver) strays() ([]string, error) {
	found, err := d.homes()
	if err != nil || len(found) == 0 {
		return nil, err
	}
	alone := func(id string) bool { return !d.vms.exists(id) && !d.cgroups.exists(id) }
	suspect := false
	for id := range found {
		suspect = suspect || alone(id)
	}
	if !suspect {
		return nil, nil
	}
	// It may have ended, and been removed, between the two looks: only what still runs is without anything else.
	if found, err = d.homes(); err != nil {
		return nil, err
	}
	var ids []string
	for id := range found {
		if alone(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// homes returns the uids of the processes that run for each ID.
func (d *Driver) homes() (map[string]map[int]bool, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for processes: %w", err)
	}
	found := map[string]map[int]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		uid, err := readUID(pid)
		if err != nil || !d.ours(uid) {
			continue
		}
		if stat, err := readStat(pid); err != nil || stat.state == 'Z' || stat.state == 'X' {
			continue
		}
		id, ok := d.homeOf(pid)
		if !ok {
			continue
		}
		if found[id] == nil {
			found[id] = map[int]bool{}
		}
		found[id][uid] = true
	}
	return found, nil
}

// ours reports whether a uid is one that microVMs run as.
func (d *Driver) ours(uid int) bool {
	if !d.root {
		return uid == os.Geteuid()
	}
	return uid >= d.cfg.UIDBase && uid < d.cfg.UIDBase+d.cfg.UIDCount
}

// homeOf returns the ID whose folder a process was given as its home.
func (d *Driver) homeOf(pid int) (id string, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return "", false
	}
	for _, variable := range bytes.Split(b, []byte{0}) {
		home, is := bytes.CutPrefix(variable, []byte("HOME="))
		if is && filepath.Dir(string(home)) == string(d.vms) && idForm.MatchString(filepath.Base(string(home))) {
			return filepath.Base(string(home)), true
		}
	}
	return "", false
}

// endStrays ends the processes of an ID of which there is nothing else.
func (d *Driver) endStrays(ctx context.Context, id string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		found, err := d.homes()
		if err != nil {
			return d.cannot(id, err)
		}
		if len(found[id]) == 0 {
			return nil
		}
		for uid := range found[id] {
			if _, err := endRemnants(record{ID: id, UID: uid}, d.vms.dir(id), false); err != nil {
				return d.cannot(id, err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return d.cannot(id, errors.Join(firerunner.Errorf(firerunner.Unavailable, "its processes do not end"), context.Cause(ctx)))
		}
	}
}
