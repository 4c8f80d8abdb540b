package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabrunner"
	"github.com/firerunner/firerunner/internal/guest"
)

// system is what the agent does to the kernel. Tests put their own in its place.
type system struct {
	addEntropy func([]byte) error
	setClock   func(time.Time) error
	hostname   func(string) error
	network    func(firerunner.GuestNetwork) error
	chown      func(path string, uid, gid int) error
	start      func(command) (*process, error)
}

// channel is the way to the host: guest.Client over a device, guest.Caller over a network.
type channel interface {
	Start(context.Context) (guest.FromHost, error)
	Orders() <-chan firerunner.GuestOrder
	Report(guest.FromGuest)
	Flush(context.Context) error
}

// printer is a channel to a host that does not see the console.
type printer interface{ Print([]byte) }

// agent is the life of the one job's place in this microVM, from hello to the end of gitlab-runner.
type agent struct {
	root    string // in front of every path; / but for tests
	con     *console
	channel channel
	system  system
	runner  string                  // gitlab-runner's path
	kept    firerunner.GuestNetwork // what is configured already, and is kept unless the start says otherwise
	relay   *relay                  // nil: gitlab-runner speaks to GitLab directly, because the host wants no job keys
	foreign bool                    // the system is not ours: its name, its network and its files stay as they are

	deadline time.Time // when the microVM ends, whatever happens; zero: never
	expire   func()    // ends it

	startWait time.Duration // for the host's start, after hello
	flushWait time.Duration // for the host to read the last report
	limits    limits        // of the supervision
}

func (a *agent) path(p string) string { return filepath.Join(a.root, p) }

// run lives that life. Whatever it returns, it is on the console, the last report has been sent, and the host has had
// its time to read it; all that is left is to end the microVM.
func (a *agent) run(ctx context.Context) error {
	err := a.life(ctx)
	if err != nil {
		a.con.problem(err)
		a.print()
		a.channel.Report(guest.FromGuest{Kind: firerunner.ReportError, Message: err.Error()})
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.flushWait)
	defer cancel()
	if flushErr := a.channel.Flush(flush); flushErr != nil && err == nil {
		a.con.problem(flushErr)
		err = flushErr
	}
	return err
}

// print shows the host the end of the console, where it cannot see it. What comes before the last report has arrived
// when that is acknowledged.
func (a *agent) print() {
	if p, ok := a.channel.(printer); ok {
		p.Print(a.con.tail())
	}
}

func (a *agent) life(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, a.startWait)
	defer cancel()
	message, err := a.channel.Start(waiting)
	if err != nil {
		return err
	}
	a.con.phase("start")
	// The randomness and the clock come before anything that could use them.
	if err := a.system.addEntropy(message.Entropy); err != nil {
		return fmt.Errorf("mix in the host's randomness: %w", err)
	}
	if err := a.system.setClock(message.At); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	if !a.deadline.IsZero() { // only now is it known what time it is
		late := time.AfterFunc(time.Until(a.deadline), a.expire)
		defer late.Stop()
	}
	defer func() {
		if a.relay != nil {
			a.relay.close()
		}
	}()
	user, err := a.configure(message.Start)
	if err != nil {
		return err
	}
	a.con.phase("configured")
	return a.supervise(ctx, message.Start, user)
}

var (
	machineIDs = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hostnames  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9.-]{0,62}$`)
)

// configure makes the system into the one that this start describes.
func (a *agent) configure(start firerunner.GuestStart) (account, error) {
	if !machineIDs.MatchString(start.MachineID) {
		return account{}, fmt.Errorf("the machine id is not 32 hexadecimal digits")
	}
	if !hostnames.MatchString(start.Hostname) {
		return account{}, fmt.Errorf("the host name is not a host name")
	}
	if _, err := gitlabrunner.Settings(start); err != nil {
		return account{}, err
	}
	user, err := findUser(a.path("/etc/passwd"), jobUser)
	if err != nil {
		return account{}, err
	}
	if err := a.prepare(start); err != nil {
		return account{}, err
	}
	if err := os.MkdirAll(a.path(gitlabrunner.RunDir), 0o755); err != nil {
		return account{}, err
	}
	if err := os.WriteFile(a.path(gitlabrunner.CAFile), []byte(start.CA), 0o644); err != nil {
		return account{}, err
	}
	if err := a.trustCA(start.CA); err != nil { // only a job that needs it fails, and says so
		a.con.problem(err)
		a.channel.Report(guest.FromGuest{Kind: firerunner.ReportNotice, Message: err.Error()})
	}
	config, err := a.settings(start)
	if err != nil {
		return account{}, err
	}
	return user, a.handOver(user, config)
}

// settings are gitlab-runner's, by way of the relay where the host wants job keys. The network is there by now.
func (a *agent) settings(start firerunner.GuestStart) (config string, err error) {
	if start.SealTo == "" {
		return gitlabrunner.Settings(start)
	}
	if a.relay, err = openRelay(start.GitLabURL, start.CA, a.tookJob(start)); err != nil {
		return "", err
	}
	return gitlabrunner.RelayedSettings(start, a.relay.url(), a.caFile(start))
}

// prepare gives the system its name and its network, if it is ours.
func (a *agent) prepare(start firerunner.GuestStart) error {
	if a.foreign {
		return nil
	}
	if err := a.system.hostname(start.Hostname); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	network := a.kept
	if start.Network != (firerunner.GuestNetwork{}) || network.Address == "" {
		network = start.Network
		if err := a.system.network(network); err != nil {
			return fmt.Errorf("set up the network: %w", err)
		}
	}
	for _, f := range []struct {
		path, text string
		mode       os.FileMode
	}{
		{"/etc/machine-id", start.MachineID + "\n", 0o444},
		{"/etc/hostname", start.Hostname + "\n", 0o644},
		{"/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 " + start.Hostname + "\n::1 localhost ip6-localhost\n", 0o644},
		{"/etc/resolv.conf", resolvConf(network.DNS), 0o644},
	} {
		if err := os.WriteFile(a.path(f.path), []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	return nil
}

// handOver makes what the job's user owns.
func (a *agent) handOver(user account, config string) error {
	for _, dir := range []string{gitlabrunner.PrivateDir, gitlabrunner.BuildsDir, gitlabrunner.CacheDir} {
		if err := os.MkdirAll(a.path(dir), 0o700); err != nil {
			return err
		}
		if err := a.system.chown(a.path(dir), int(user.uid), int(user.gid)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(a.path(gitlabrunner.SettingsFile), []byte(config), 0o600); err != nil {
		return err
	}
	return a.system.chown(a.path(gitlabrunner.SettingsFile), int(user.uid), int(user.gid))
}

func resolvConf(dns string) string {
	if dns == "" || strings.ContainsAny(dns, " \t\r\n") {
		return ""
	}
	return "nameserver " + dns + "\n"
}
