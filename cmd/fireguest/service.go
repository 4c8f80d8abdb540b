package main

import (
	"context"
	"errors"
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
	a.channel = caller
	_ = a.run(ctx) // it has said what went wrong
	s.con.phase("off")
	return nil
}
