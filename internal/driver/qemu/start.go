package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// shimProcess is a shim as its parent sees it while it starts.
type shimProcess struct {
	process *process
	in, out *os.File
}

// startShim starts a shim that waits for its spec. It is in a session of its own, so that nothing that is sent to
// the daemon's reaches it, and never has the daemon's uid if that is root.
func (d *Driver) startShim(id string, uid int, accel string) (*shimProcess, error) {
	argv := d.cfg.Shim
	attr := &os.ProcAttr{Dir: "/", Env: environment(d.vms.dir(id)), Sys: &syscall.SysProcAttr{Setsid: true}}
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			_ = f.Close()
		}
	}()
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			opened = append(opened, r, w)
		}
		return r, w, err
	}
	inR, inW, err := pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := pipe()
	if err != nil {
		return nil, err
	}
	shimLog, err := os.OpenFile(filepath.Join(d.vms.dir(id), shimLogFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	opened = append(opened, shimLog)
	attr.Files = []*os.File{inR, outW, shimLog}
	if d.root {
		if err := shimLog.Chown(uid, uid); err != nil {
			return nil, err
		}
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: kvmGroup(accel)}
	}
	var path string
	if len(argv) == 0 {
		// This very program, even if its file was replaced since or is in a folder that the uid cannot pass.
		self, err := os.Open("/proc/self/exe")
		if err != nil {
			return nil, err
		}
		opened = append(opened, self)
		attr.Files = append(attr.Files, self)
		argv, path = []string{"firerunner", "shim"}, "/proc/self/fd/3"
	} else if path, err = findProgram(argv[0]); err != nil {
		return nil, err
	}
	started, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, err
	}
	p, err := openProcess(started.Pid, 0)
	reaper, err2 := openProcess(started.Pid, 0)
	if err = errors.Join(err, err2); err != nil || p == nil || reaper == nil {
		_ = started.Kill()
		_, _ = started.Wait()
		for _, opened := range []*process{p, reaper} {
			if opened != nil {
				opened.close()
			}
		}
		return nil, errors.Join(err, errors.New("the shim could not be watched"))
	}
	_ = started.Release()
	d.reapers.Go(func() {
		defer reaper.close()
		if reaper.wait(d.reaping) == nil {
			reaper.reap()
		}
	})
	opened = []*os.File{inR, outW, shimLog}
	if len(attr.Files) > 3 {
		opened = append(opened, attr.Files[3])
	}
	return &shimProcess{process: p, in: inW, out: outR}, nil
}

// kvmGroup is the group that may open /dev/kvm, for those who need it.
func kvmGroup(accel string) []uint32 {
	var stat unix.Stat_t
	if accel != AccelKVM || unix.Stat("/dev/kvm", &stat) != nil || stat.Gid == 0 {
		return nil
	}
	return []uint32{stat.Gid}
}

// tell hands the spec over and closes the pipe.
func (s *shimProcess) tell(ctx context.Context, spec shimSpec) error {
	stop := context.AfterFunc(ctx, func() { _ = s.in.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	return errors.Join(json.NewEncoder(s.in).Encode(spec), s.in.Close())
}

// answer waits for the shim's word that qemu runs.
func (s *shimProcess) answer(ctx context.Context) (answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	return readAnswer(s.out)
}

func (s *shimProcess) close() {
	_ = s.in.Close()
	_ = s.out.Close()
	s.process.close()
}
