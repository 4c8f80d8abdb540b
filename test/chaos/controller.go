package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// controller is one `firerunner serve`, a process that is killed and started again.
type controller struct {
	name, program, dir string
	port               int // of webhooks

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed once the process has
}

func (c *controller) config() string         { return filepath.Join(c.dir, "config.yaml") }
func (c *controller) log() string            { return filepath.Join(c.dir, "controller.log") }
func (c *controller) state(at string) string { return filepath.Join(c.dir, "state", at) }

// start starts the process. Its log goes on in the same file.
func (c *controller) start() error {
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.program, "serve", "--config", c.config())
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "GOCOVERDIR=" + os.Getenv("FIRERUNNER_COVERDIR")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the harness
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting controller %s: %w", c.name, err)
	}
	ended := make(chan struct{})
	c.mu.Lock()
	c.cmd, c.ended = cmd, ended
	c.mu.Unlock()
	go func() {
		defer close(ended)
		_ = cmd.Wait() // what it says is in ProcessState
	}()
	return nil
}

// lives reports whether the process is there, and gives what is closed when it is not any more.
func (c *controller) lives() (ended <-chan struct{}, lives bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		return nil, false
	}
	select {
	case <-c.ended:
		return c.ended, false
	default:
		return c.ended, true
	}
}

// served waits until the process answers over HTTP.
func (c *controller) served(ctx context.Context) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	ended, _ := c.lives()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/healthz", c.port), http.NoBody)
		if err != nil {
			return err
		}
		if answer, err := client.Do(request); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ended:
			return fmt.Errorf("controller %s has ended by itself: see %s", c.name, c.log())
		case <-ctx.Done():
			return fmt.Errorf("controller %s does not answer: %w", c.name, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// signal sends one, and waits for the end of the process.
func (c *controller) signal(ctx context.Context, s syscall.Signal) (status int, err error) {
	c.mu.Lock()
	cmd, ended := c.cmd, c.ended
	c.mu.Unlock()
	if cmd == nil {
		return 0, nil
	}
	_ = cmd.Process.Signal(s)
	select {
	case <-ended:
		return cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("controller %s does not end by %s: %w", c.name, s, context.Cause(ctx))
	}
}

// freePort returns a port that a process can have, and have again. It is below those that the system gives to outgoing
// connections (32768 on Linux).
func freePort() (int, error) {
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port")
}
