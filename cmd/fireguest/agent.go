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

// agent is the life of the one job's place in this microVM, from hello to the end of gitlab-runner.
type agent struct {
	root    string // in front of every path; / but for tests
	con     *console
	channel *guest.Client
	system  system
	runner  string // gitlab-runner's path

	startWait time.Duration // for the host's start, after hello
	flushWait time.Duration // for the host to read the last report
	limits    limits        // of the supervision
}

func (a *agent) path(p string) string { return filepath.Join(a.root, p) }

// run lives that life. Whatever it returns, the last report has been sent, and the host has had its time to
// read it; all that is left is to end the microVM.
func (a *agent) run(ctx context.Context) error {
	err := a.life(ctx)
	if err != nil {
		a.channel.Report(guest.FromGuest{Kind: firerunner.ReportError, Message: err.Error()})
	}
	flush, cancel := context.WithTimeout(ctx, a.flushWait)
	defer cancel()
	if flushErr := a.channel.Flush(flush); flushErr != nil && err == nil {
		err = flushErr
	}
	return err
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
	config, err := runnerConfig(start)
	if err != nil {
		return account{}, err
	}
	user, err := findUser(a.path("/etc/passwd"), jobUser)
	if err != nil {
		return account{}, err
	}
	if err := a.system.hostname(start.Hostname); err != nil {
		return account{}, fmt.Errorf("set the host name: %w", err)
	}
	if err := a.system.network(start.Network); err != nil {
		return account{}, fmt.Errorf("set up the network: %w", err)
	}
	files := []struct {
		path, text string
		mode       os.FileMode
	}{
		{"/etc/machine-id", start.MachineID + "\n", 0o444},
		{"/etc/hostname", start.Hostname + "\n", 0o644},
		{"/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 " + start.Hostname + "\n::1 localhost ip6-localhost\n", 0o644},
		{"/etc/resolv.conf", resolvConf(start.Network.DNS), 0o644},
		{caFile, start.CA, 0o644},
	}
	if err := os.MkdirAll(a.path(runDir), 0o755); err != nil {
		return account{}, err
	}
	for _, f := range files {
		if err := os.WriteFile(a.path(f.path), []byte(f.text), f.mode); err != nil {
			return account{}, err
		}
	}
	return user, a.handOver(user, config)
}

// handOver makes what the job's user owns.
func (a *agent) handOver(user account, config string) error {
	for _, dir := range []string{privateDir, buildsDir, cacheDir} {
		if err := os.MkdirAll(a.path(dir), 0o700); err != nil {
			return err
		}
		if err := a.system.chown(a.path(dir), int(user.uid), int(user.gid)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(a.path(configFile), []byte(config), 0o600); err != nil {
		return err
	}
	return a.system.chown(a.path(configFile), int(user.uid), int(user.gid))
}

func resolvConf(dns string) string {
	if dns == "" || strings.ContainsAny(dns, " \t\r\n") {
		return ""
	}
	return "nameserver " + dns + "\n"
}
