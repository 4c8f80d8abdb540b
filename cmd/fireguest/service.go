package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/guest"
)

// service is the agent on a system that is not ours, where something else is PID 1. Its fields are what it does to
// the machine.
type service struct {
	con       *console
	metadata  *metadataService
	block     func() error // closes the metadata service
	power     func()       // ends the machine
	agent     agent        // without the channel
	wait      time.Duration
	configure func(*guest.CallerConfig) // for tests; may be nil
}

// serve is fireguest --service. It returns only where nothing says that this machine is one of FireRunner's microVMs:
// a machine whose metadata could be read ends with its job, whatever happens.
func serve() error {
	if os.Geteuid() != 0 {
		return errors.New("it has to run as root, so that the job does not have to")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := &service{
		con:      &console{w: os.Stderr, uptime: uptime, kernel: kernelLog},
		metadata: newMetadataService(), block: blockMetadata, power: power, wait: metadataWait,
	}
	reaper := newReaper()
	s.agent = agent{
		root: "/", con: s.con, runner: runnerPath, foreign: true,
		startWait: startWait, flushWait: callFlushWait, limits: defaultLimits,
		system: system{addEntropy: addEntropy, setClock: setClock, chown: os.Chown, start: reaper.start},
	}
	return s.run(ctx)
}

// userWait is how long making the job's user may take.
const userWait = 30 * time.Second

// addUser makes the job's user where the system has none. (useradd is Debian's, Ubuntu's, Fedora's and SUSE's; adduser
// -D is busybox's, so Alpine's.)
func (s *service) addUser() error {
	if _, err := findUser(s.agent.path("/etc/passwd"), jobUser); err == nil {
		return nil
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	var failed error
	for _, args := range [][]string{
		{"/usr/sbin/useradd", "--create-home", "--shell", "/bin/bash", jobUser},
		{"/usr/sbin/adduser", "-D", "-s", "/bin/bash", jobUser},
	} {
		p, err := s.agent.system.start(command{path: args[0], args: args, env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, dir: "/", output: null, privileges: true})
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		late := time.NewTimer(userWait)
		select {
		case ended := <-p.ended:
			late.Stop()
			if ended.exitCode == 0 {
				return nil
			}
			failed = errors.Join(failed, fmt.Errorf("%s ended with status %d", args[0], ended.exitCode))
		case <-late.C:
			_ = p.signal(syscall.SIGKILL)
			<-p.ended
			failed = errors.Join(failed, fmt.Errorf("%s did not end", args[0]))
		}
	}
	return fmt.Errorf("make the user %s: %w", jobUser, failed)
}

// run reads the metadata over the network as it is, closes it, and lives the life of the agent. When ctx ends, the
// job is stopped and reported; the machine ends all the same.
func (s *service) run(ctx context.Context) error {
	reading, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	m, err := s.metadata.read(reading)
	if err != nil {
		return err
	}
	defer s.power()
	s.con.phase("metadata")
	if err := s.block(); err != nil {
		s.con.problem(err)
		return nil
	}
	cfg := calling(m, func(code firerunner.Code) {
		s.con.problem(refusedBoot(code))
		s.power()
	})
	if s.configure != nil {
		s.configure(&cfg)
	}
	caller := guest.Call(cfg)
	defer caller.Close()
	s.con.phase("hello")
	a := s.agent
	a.channel, a.deadline = caller, m.Deadline
	a.expire = func() { s.con.problem(errDeadline); s.power() }
	if err := s.addUser(); err != nil {
		s.con.problem(err) // the agent misses it too, and reports that with the end of the console
	}
	_ = a.run(ctx) // it has said what went wrong
	s.con.phase("off")
	return nil
}
