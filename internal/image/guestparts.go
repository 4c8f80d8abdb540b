package image

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

const (
	jobUser = "ci"
	jobUID  = 1000
	jobHome = "/home/ci"

	agentPath  = "usr/sbin/fireguest"
	runnerPath = "usr/local/bin/gitlab-runner"
	initPath   = "sbin/init"

	maxAccounts = 4 << 20 // bytes of a file like /etc/passwd
)

// guestParts is what makes a guest of a system.
type guestParts struct {
	agent, runner string // programs on this machine
	sudo          bool   // jobs may become root
	keepInit      bool   // an init that is there stays
}

// addGuest adds the agent, gitlab-runner and the job's user to a system, and empties what says which machine it is.
// The agent is /sbin/init too, for kernels that mount the root disk by themselves.
func addGuest(t *tree, p guestParts) error {
	if err := addPlaces(t); err != nil {
		return err
	}
	if err := addSSHD(t); err != nil {
		return err
	}
	return addAgent(t, p)
}

// addPlaces empties what the kernel and each boot fill.
func addPlaces(t *tree) error {
	delete(t.root.children, "lost+found")
	for _, d := range []struct {
		name string
		mode uint32
	}{{"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"tmp", 0o1777}} {
		if n, err := t.lookup(d.name); err == nil && n.kind == kindDir {
			if d.name != "tmp" && d.name != "run" {
				clear(n.children) // the kernel's own
			}
		} else if err := t.directory(d.name, d.mode, 0); err != nil {
			return err
		}
	}
	return nil
}

func addAgent(t *tree, p guestParts) error {
	if err := addAccounts(t); err != nil {
		return err
	}
	for _, d := range []struct {
		name string
		mode uint32
	}{{jobHome, 0o755}, {"builds", 0o700}, {"cache", 0o700}} {
		if err := t.directory(d.name, d.mode, jobUID); err != nil {
			return err
		}
	}
	for _, empty := range []string{"etc/machine-id", "etc/hostname", "etc/resolv.conf"} {
		if err := t.file(empty, 0o644, 0, nil); err != nil {
			return err
		}
	}
	if p.sudo {
		if err := t.file("etc/sudoers.d/firerunner", 0o440, 0, []byte(jobUser+" ALL=(ALL:ALL) NOPASSWD: ALL\n")); err != nil {
			return err
		}
	}
	if err := addProgram(t, agentPath, p.agent); err != nil {
		return err
	}
	if err := addProgram(t, runnerPath, p.runner); err != nil {
		return err
	}
	if p.keepInit && t.has(initPath) {
		return nil
	}
	return t.set(initPath, &node{kind: kindLink, mode: 0o777, target: "/" + agentPath})
}

// addAccounts adds the job's user. A user who has its name or number already goes: a job must be nobody else.
func addAccounts(t *tree) error {
	id := strconv.Itoa(jobUID)
	for _, a := range []struct {
		file, line string
		mode       uint32
		idField    int // where the number is; none if 0
	}{
		{"etc/passwd", fmt.Sprintf("%s:x:%d:%d:CI job:%s:/bin/bash\n", jobUser, jobUID, jobUID, jobHome), 0o644, 2},
		{"etc/group", fmt.Sprintf("%s:x:%d:\n", jobUser, jobUID), 0o644, 2},
		{"etc/shadow", jobUser + ":!*:19000::::::\n", 0o640, 0},
		{"etc/gshadow", jobUser + ":!*::\n", 0o640, 0},
	} {
		text, err := t.read(a.file, maxAccounts)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		for line := range strings.Lines(string(text)) {
			fields := strings.Split(strings.TrimRight(line, "\n"), ":")
			if fields[0] == jobUser || a.idField > 0 && len(fields) > a.idField && fields[a.idField] == id {
				continue
			}
			out.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
		out.WriteString(a.line)
		group := 0
		if a.mode == 0o640 {
			group = 42 // shadow, which has this number on every Debian
		}
		if err := t.file(a.file, a.mode, group, out.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// addProgram adds a program of this machine.
func addProgram(t *tree, name, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	return t.set(name, &node{mode: 0o755, size: info.Size(), content: diskFile(from)})
}

// diskFile is content in a file on this machine, which is opened when it is read.
type diskFile string

func (d diskFile) open() io.Reader { return &lateFile{path: string(d)} }

// lateFile opens its file at the first read and closes it at the end.
type lateFile struct {
	path string
	f    *os.File
}

func (l *lateFile) Read(b []byte) (n int, err error) {
	if l.f == nil {
		if l.f, err = os.Open(l.path); err != nil {
			return 0, err
		}
	}
	if n, err = l.f.Read(b); err != nil {
		_ = l.f.Close()
	}
	return n, err
}
