package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/guest"
)

const (
	runnerPath = "/usr/local/bin/gitlab-runner"
	mainLink   = "eth0"

	portWait  = 10 * time.Second
	startWait = 60 * time.Second
	flushWait = 2 * time.Second
	// bootLimit is when a microVM ends that has not even asked the host by then.
	bootLimit = 90 * time.Second
)

// boot is PID 1. It never returns: it ends the microVM, whatever happens. A panic in another goroutine ends the
// process, which is a kernel panic, which ends the microVM too (panic=-1 on the kernel's command line).
func boot() {
	con := &console{w: os.Stderr, uptime: uptime, kernel: kernelLog}
	defer power()
	defer func() {
		if r := recover(); r != nil {
			con.problem(fmt.Errorf("panic: %v", r))
		}
	}()
	stuck := time.AfterFunc(bootLimit, func() {
		con.problem(errors.New("the boot is stuck"))
		power()
	})
	err := bootSystem(con)
	if err != nil {
		con.problem(err)
		return
	}
	way, err := findWay(con)
	if err != nil {
		con.problem(err)
		return
	}
	stuck.Stop() // from here on every wait has a deadline of its own
	con.phase("hello")
	reaper := newReaper()
	a := &agent{
		root: "/", con: con, channel: way.channel, runner: runnerPath, kept: way.kept,
		deadline: way.deadline, expire: func() { con.problem(errDeadline); power() },
		startWait: startWait, flushWait: way.flushWait, limits: defaultLimits,
		system: system{
			addEntropy: addEntropy, setClock: setClock,
			hostname: func(name string) error { return unix.Sethostname([]byte(name)) },
			network:  func(n firerunner.GuestNetwork) error { return configureNetwork(way.link, n) },
			chown:    os.Chown,
			start:    reaper.start,
		},
	}
	_ = a.run(context.Background()) // it has said what went wrong
	con.phase("off")
}

// way is how this microVM reaches its host.
type way struct {
	channel   channel
	link      string                  // the interface that leads out
	kept      firerunner.GuestNetwork // what it is configured with; nothing: that comes with the start
	flushWait time.Duration
	deadline  time.Time // when the microVM has to end; zero: its host sees to that
}

var errDeadline = errors.New("the deadline of this microVM has passed")

// findWay chooses it: the device that the host has put into the microVM, or, where there is none, the network.
func findWay(con *console) (way, error) {
	port, err := openPort("/sys", "/dev", 0)
	// Looking for the device costs some milliseconds under emulation, so that comes second: it is there as a rule.
	if devices := (&loader{sys: "/sys"}); err != nil && devices.hasVirtio("3") { // consoles and ports: virtio 1.2, 5.3
		port, err = openPort("/sys", "/dev", portWait)
	}
	if err == nil {
		return way{channel: guest.Dial(port, hello(), hostClock), link: mainLink, flushWait: flushWait}, nil
	}
	w, callErr := callHost(con)
	if callErr != nil {
		return way{}, errors.Join(err, callErr)
	}
	return w, nil
}

// hostClock sets the clock to what the host says it is.
func hostClock(at time.Time) { _ = setClock(at) }

// bootSystem goes from what the kernel left us with to a system in which programs can run.
func bootSystem(con *console) error {
	unix.Umask(0o022)
	if err := mountAll(earlyMounts); err != nil {
		return err
	}
	if w, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		con.w = w // the kernel could not give us one where the RAM disk has no such file
	}
	con.phase("init")
	if onRAMDisk() {
		if err := switchRoot(con); err != nil {
			return err
		}
		con.phase("root")
	}
	return prepareSystem()
}

// hello says who we are. It does not say the boot id: the kernel draws that when it is first read, and in a
// microVM from a snapshot that must be after the host's randomness has come.
func hello() guest.FromGuest {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return guest.FromGuest{Agent: agentVersion(), Kernel: unix.ByteSliceToString(uts.Release[:])}
}
