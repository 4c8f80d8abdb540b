package control

import (
	"context"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// Settings is the part of Config that may change while control runs. A runner keeps what it was given when it came into its
// state: a deadline that becomes shorter ends nothing that runs.
type Settings struct {
	Profiles      []firerunner.Profile
	Deadlines     firerunner.Deadlines
	OutputKiB     int
	HoldAfter     time.Duration
	HostLostAfter time.Duration
	QueueSize     int
	SweepInterval time.Duration
	SweepProjects []int64
	SweepWindow   time.Duration
}

// stale makes c.Deadlines and the like ambiguous, so that nobody reads by mistake what was configured at the start.
type stale Settings

func (c *Config) settings() Settings {
	return Settings{
		Profiles: c.Profiles, Deadlines: c.Deadlines, OutputKiB: c.OutputKiB, HoldAfter: c.HoldAfter, HostLostAfter: c.HostLostAfter,
		QueueSize: c.QueueSize, SweepInterval: c.SweepInterval, SweepProjects: c.SweepProjects, SweepWindow: c.SweepWindow,
	}.withDefaults()
}

func (s Settings) withDefaults() Settings {
	if s.Deadlines == (firerunner.Deadlines{}) {
		s.Deadlines = firerunner.DefaultDeadlines()
	}
	for _, d := range []struct {
		value *time.Duration
		sane  time.Duration
	}{
		{&s.Deadlines.FailJob, failJobLimit},
		{&s.SweepInterval, 30 * time.Second},
		{&s.SweepWindow, 7 * 24 * time.Hour},
		{&s.HoldAfter, 5 * time.Minute},
		{&s.HostLostAfter, time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.sane
		}
	}
	if s.QueueSize <= 0 {
		s.QueueSize = 1000
	}
	return s
}

// set is what is in force now. It is never changed, only replaced.
func (c *Control) set() *Settings { return c.inForce.Load() }

// ChangeSettings puts other settings in force, all of them at once, and has the work looked at again that they may allow:
// a larger queue, another profile. An error is only about that look, which the next sweep repeats.
func (c *Control) ChangeSettings(ctx context.Context, s Settings) error {
	s = s.withDefaults()
	c.inForce.Store(&s)
	c.changed.send()
	if err := c.level(ctx); err != nil {
		return fmt.Errorf("looking at what other settings allow: %w", err)
	}
	return nil
}
