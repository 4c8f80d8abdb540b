// Package provision installs and runs gitlab-runner over SSH, in microVMs whose image has no agent of ours. It is the
// agent from outside: it reports what an agent would report, in the same order.
//
// Nothing is trusted at first sight: the guest must show the host key that was made for it or pinned, and the key that
// opens it is made for one microVM and lives in memory only. No secret is in a command: what is secret goes through
// standard input into files with mode 0600.
//
// A connection that breaks is made again and the log is read on where it ended; the job does not notice. If the process
// that runs this dies, nobody speaks with the microVM any more: the key is gone with it. The job runs on and tells GitLab
// its result by itself; where there is systemd, the microVM ends soon after it, and everywhere at its deadline.
package provision

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/firerunner/firerunner"
)

// Config is one microVM to install into. Dial, Key, HostKeys, Start, Runner, Settings, Arguments, Parse and Report are
// required.
type Config struct {
	Host string // where the microVM runs, for errors
	ID   string // of the microVM, for errors

	Dial     func(ctx context.Context) (net.Conn, error) // connects to the guest's sshd
	User     string                                      // who logs in: root (default), or one who may sudo without a password
	Key      ssh.Signer                                  // opens this one microVM
	HostKeys []ssh.PublicKey                             // the only ones that are accepted
	// Shut ends the guest's metadata service once we are in. false, or nil: the guest has to block the way to it.
	Shut func() (closed bool)

	Start     firerunner.GuestStart
	Runner    Runner
	Settings  func(firerunner.GuestStart) (toml string, err error)        // gitlab-runner's configuration; it holds the token
	Arguments func(start firerunner.GuestStart, settings string) []string // gitlab-runner's, after its name; never the token
	Parse     func(line []byte) (r firerunner.GuestReport, ok bool)       // what a line of gitlab-runner's JSON log means
	Report    func(firerunner.GuestReport)                                // called from one goroutine; Seq and At are left to the caller
	Orders    <-chan firerunner.GuestOrder                                // nil: there are none

	Timeouts Timeouts
	Logger   *slog.Logger // nil: nothing is logged
}

// Runner is where gitlab-runner comes from. Either Path or URL is set; SHA256 always is.
type Runner struct {
	Path   string // a file here, which is uploaded
	URL    string // or an address from which the guest downloads it
	SHA256 string // 64 hexadecimal digits
}

// Timeouts limit each step. A zero is the default.
type Timeouts struct {
	Connect time.Duration // until sshd lets us in, also after a connection broke; 3 min
	Attempt time.Duration // one try of it; 30 s: an emulated guest on a busy host is slow to shake hands
	Step    time.Duration // a command that only arranges things; 30 s
	Upload  time.Duration // bringing gitlab-runner into the guest; 5 min
	Idle    time.Duration // gitlab-runner after SIGTERM, without a job; 5 s
	Job     time.Duration // the same with a job: it kills the script and sends the result; 20 s
}

func (t *Timeouts) complete() {
	for _, d := range []struct {
		value *time.Duration
		sane  time.Duration
	}{
		{&t.Connect, 3 * time.Minute},
		{&t.Attempt, 30 * time.Second},
		{&t.Step, 30 * time.Second},
		{&t.Upload, 5 * time.Minute},
		{&t.Idle, 5 * time.Second},
		{&t.Job, 20 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.sane
		}
	}
}

// Run installs gitlab-runner, starts it as an unprivileged user, reports what it does until it has ended, and turns the
// microVM off. An error names host, microVM and step, and has been reported as ReportError. If ctx ends, nothing more is
// reported, and the microVM is left as it is, with the job that runs in it.
func Run(ctx context.Context, cfg Config) error {
	cfg.Timeouts.complete()
	if cfg.User == "" {
		cfg.User = "root"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &guest{Config: cfg, began: time.Now()}
	defer g.close()
	err := g.life(ctx)
	if err != nil && ctx.Err() != nil {
		return err // whoever called goes away: the job stays
	}
	if err != nil {
		cfg.Report(firerunner.GuestReport{Kind: firerunner.ReportError, Message: err.Error()})
	}
	g.turnOff(ctx)
	return err
}

// guest is one microVM while it is spoken with.
type guest struct {
	Config
	began            time.Time
	client           *ssh.Client
	greeted, started bool   // hello was reported; gitlab-runner was started
	root             string // what makes a command root's: empty or "sudo -n "
}

func (g *guest) life(ctx context.Context) error {
	if err := g.check(); err != nil {
		return err
	}
	if err := g.connect(ctx); err != nil {
		return err
	}
	if err := g.hello(ctx); err != nil {
		return err
	}
	switch ordered, err := g.unlessOrdered(ctx, g.shut, g.prepare, g.install, g.configure, g.launch); {
	case err != nil:
		return err
	case ordered:
		g.Report(firerunner.GuestReport{Kind: firerunner.ReportRunnerExited, Message: "stopped by order, before gitlab-runner was started"})
		return nil
	}
	g.started = true
	g.Report(firerunner.GuestReport{Kind: firerunner.ReportStarted, Message: "started over SSH"})
	return (&watching{guest: g}).watch(ctx)
}

// unlessOrdered takes the steps one after the other, until an order comes: both orders mean the same to a guest that has
// not begun.
func (g *guest) unlessOrdered(ctx context.Context, steps ...func(context.Context) error) (ordered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	came := make(chan struct{})
	listening.Go(func() {
		select {
		case _, open := <-g.Orders:
			if open {
				close(came)
				cancel()
				return
			}
			<-ctx.Done()
		case <-ctx.Done():
		}
	})
	defer listening.Wait()
	defer cancel()
	for _, step := range steps {
		if err = step(ctx); err != nil {
			break
		}
	}
	cancel()
	listening.Wait()
	select {
	case <-came:
		return true, nil
	default:
		return false, err
	}
}
