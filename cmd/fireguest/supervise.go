package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabrunner"
	"github.com/firerunner/firerunner/internal/guest"
)

// limits are the deadlines of the supervision. They are fields so that tests need not wait.
type limits struct {
	// idleGrace and jobGrace are how long gitlab-runner has after SIGTERM, without a job and with one. Without a
	// job it may be in a request that GitLab holds open for 50 s, which SIGTERM does not end. With a job it kills
	// the script, sends the rest of the log and the result.
	idleGrace, jobGrace time.Duration
	// overshoot is how much longer than its own wait timeout gitlab-runner is let wait: it looks at the time
	// between two requests only.
	overshoot time.Duration
	// drain is how long its output is still read once it has ended.
	drain time.Duration
}

var defaultLimits = limits{idleGrace: 5 * time.Second, jobGrace: 20 * time.Second, overshoot: 70 * time.Second, drain: time.Second}

const (
	maxComplaints = 20 // reports of gitlab-runner's warnings
	maxNotices    = 20 // reports of lines from the notice pipe
	maxText       = 512
)

// supervise starts gitlab-runner, reports what it does, obeys orders, and returns once it has ended.
func (a *agent) supervise(ctx context.Context, start firerunner.GuestStart, user account) error {
	notices, closeNotices, err := openNotices(a.path(gitlabrunner.NoticePipe))
	if err != nil {
		return fmt.Errorf("make the notice pipe: %w", err)
	}
	defer closeNotices()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	p, err := a.system.start(command{
		path: a.runner, args: append([]string{"gitlab-runner"}, gitlabrunner.Arguments(start, gitlabrunner.SettingsFile)...), dir: user.home, uid: user.uid, gid: user.gid, output: write,
		env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=" + user.home, "USER=" + user.name, "LOGNAME=" + user.name, "LANG=C.UTF-8",
		},
		privileges: hasSudo(a.root),
	})
	_ = write.Close()
	if err != nil {
		return err
	}
	a.con.phase("runner")
	bootID, _ := os.ReadFile(a.path("/proc/sys/kernel/random/boot_id"))
	a.channel.Report(guest.FromGuest{Kind: firerunner.ReportStarted, BootID: strings.TrimSpace(string(bootID))})

	events := make(chan gitlabrunner.Event)
	go func() {
		defer close(events)
		gitlabrunner.ReadLog(read, func(e gitlabrunner.Event) { events <- e })
	}()
	s := &supervision{agent: a, process: p, forget: func() { _ = os.RemoveAll(a.path(gitlabrunner.PrivateDir)) }}
	ended := s.watch(ctx, events, notices, a.channel.Orders(), start.WaitTimeout)
	_ = read.SetReadDeadline(time.Now().Add(a.limits.drain)) // a process that it left behind may hold the pipe open
	for e := range events {
		s.took(e)
	}
	a.con.phase("ended")
	message := s.why
	if ended.signal != "" {
		message = "ended by " + ended.signal
	}
	a.print()
	a.channel.Report(guest.FromGuest{Kind: firerunner.ReportRunnerExited, ExitCode: ended.exitCode, Message: message})
	return nil
}

// hasSudo reports whether the image was made so that its jobs may become root. Inside the microVM such a job may
// do all that the agent may; what holds it is the microVM.
func hasSudo(root string) bool {
	_, err := os.Stat(root + "/etc/sudoers.d/firerunner")
	return err == nil
}

// supervision is the state of one watch.
type supervision struct {
	agent   *agent
	process *process
	forget  func() // removes the configuration with the token

	working    bool // a job is running
	worked     bool // there has been one
	stopping   bool
	kill       <-chan time.Time
	complaints int
	complaint  string // the last one
	why        string // why it ended, as far as it said
}

// watch runs until gitlab-runner has ended, and makes sure that it does.
func (s *supervision) watch(ctx context.Context, events <-chan gitlabrunner.Event, notices <-chan string,
	orders <-chan firerunner.GuestOrder, wait time.Duration,
) status {
	var idle <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait + s.agent.limits.overshoot)
		defer timer.Stop()
		idle = timer.C
	}
	done := ctx.Done()
	for {
		select {
		case ended := <-s.process.ended:
			return ended
		case e, open := <-events:
			if !open {
				events = nil
				continue
			}
			s.took(e)
		case text := <-notices:
			s.agent.channel.Report(guest.FromGuest{Kind: firerunner.ReportNotice, Message: text})
		case order := <-orders:
			if order == firerunner.OrderStop {
				s.stop("stopped by order")
			} else if !s.stopping {
				_ = s.process.signal(syscall.SIGQUIT)
			}
		case <-idle:
			if !s.worked {
				s.stop(fmt.Sprintf("no job within %s", wait))
			}
		case <-done:
			done = nil
			s.stop("the agent ends")
		case <-s.kill:
			_ = s.process.signal(syscall.SIGKILL)
		}
	}
}

// stop asks gitlab-runner to end now, and makes it end if it does not. A second SIGTERM would make it leave the
// job's result unsent, so there is only one.
func (s *supervision) stop(why string) {
	if s.stopping {
		return
	}
	s.stopping, s.why = true, why
	_ = s.process.signal(syscall.SIGTERM)
	grace := s.agent.limits.idleGrace
	if s.working {
		grace = s.agent.limits.jobGrace
	}
	s.kill = time.After(grace)
}

// took acts on one line of gitlab-runner's log.
func (s *supervision) took(e gitlabrunner.Event) {
	report := s.agent.channel.Report
	switch e.Kind {
	case gitlabrunner.Ready:
		s.forget()
	case gitlabrunner.TookJob:
		s.forget()
		s.working, s.worked = true, true
		s.agent.con.phase("job")
		if s.agent.relay.reported(e.Job) {
			return
		}
		report(guest.FromGuest{Kind: firerunner.ReportTookJob, JobID: e.Job})
	case gitlabrunner.JobDone:
		s.working = false
		s.agent.con.phase("done")
		report(guest.FromGuest{Kind: firerunner.ReportJobDone, JobID: e.Job, Success: e.Success, Failure: e.Failure, ExitCode: e.ExitCode})
	case gitlabrunner.NoJob:
		s.why = guest.Text(e.Text, maxText)
	case gitlabrunner.Refused:
		// gitlab-runner would sleep for 300 s now and try again.
		if !s.worked {
			report(guest.FromGuest{Kind: firerunner.ReportError, Message: e.Text})
		}
		s.stop(e.Text)
	case gitlabrunner.Complain:
		text := guest.Text(e.Text, maxText)
		if text == "" || text == s.complaint || s.complaints >= maxComplaints {
			return
		}
		s.complaints++
		s.complaint = text
		report(guest.FromGuest{Kind: firerunner.ReportNotice, Message: "gitlab-runner: " + text})
	}
}
