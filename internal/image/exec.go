package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
)

// Command is a program to run.
type Command struct {
	Args   []string // the first is the program's name
	Env    []string // in addition to PATH, HOME, LANG and the proxies
	Stdout io.Writer
	Stderr io.Writer // its end is in the error as well
}

// Exec runs a program to its end. Ending the context ends the program and what it has started.
type Exec func(ctx context.Context, c Command) error

// tools says which Debian package has which program.
var tools = map[string]string{
	"mmdebstrap": "mmdebstrap", "tar": "tar", "dpkg-deb": "dpkg", "apt-get": "apt",
	"newuidmap": "uidmap", "xz": "xz-utils", "unshare": "util-linux",
}

// toolPath is where tools are looked for: a user's PATH often lacks the sbin directories.
const toolPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// look finds a tool.
func look(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range append(filepath.SplitList(toolPath), filepath.SplitList(os.Getenv("PATH"))...) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	err := firerunner.Errorf(firerunner.Unavailable, "find %s: it is not installed", name)
	if name := tools[name]; name != "" {
		err = err.WithHint("apt-get install %s", name)
	}
	return "", err
}

// Execute is the real Exec.
func Execute(ctx context.Context, c Command) error {
	path, err := look(c.Args[0])
	if err != nil {
		return err
	}
	tail := &lastBytes{limit: 4 << 10}
	cmd, err := begin(ctx, path, c, tail)
	if err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever is left of the group
		}
		return firerunner.Errorf(firerunner.Unavailable, "run %s: %w", c.Args[0], ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return firerunner.Errorf(firerunner.Unavailable, "run %s: %w: %s", c.Args[0], err, strings.TrimSpace(tail.String()))
	}
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "run %s: %w", c.Args[0], err)
	}
	return nil
}

// A program that was written a moment ago may still be open for writing, by a process that another goroutine was starting
// at that time: https://go.dev/issue/22315.
const (
	busyTries = 40
	busyPause = 50 * time.Millisecond
)

// begin starts a command.
func begin(ctx context.Context, path string, c Command, tail *lastBytes) (*exec.Cmd, error) {
	for try := 1; ; try++ {
		cmd := exec.CommandContext(ctx, path, c.Args[1:]...)
		cmd.Env = append([]string{"PATH=" + toolPath, "HOME=" + os.Getenv("HOME"), "LANG=C.UTF-8"}, c.Env...)
		cmd.Env = append(cmd.Env, proxies()...)
		cmd.Stdout, cmd.Stderr = c.Stdout, tail
		if c.Stderr != nil {
			cmd.Stderr = io.MultiWriter(c.Stderr, tail)
		}
		// A group of its own, so that the terminal's Ctrl-C comes once, from here, and reaches its children too.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		cmd.WaitDelay = 15 * time.Second
		err := cmd.Start()
		if !errors.Is(err, syscall.ETXTBSY) || try == busyTries {
			return cmd, err
		}
		select {
		case <-ctx.Done():
			return cmd, ctx.Err()
		case <-time.After(busyPause):
		}
	}
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	limit int
	b     bytes.Buffer
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.b.Write(p)
	if over := l.b.Len() - l.limit; over > 0 {
		l.b.Next(over)
	}
	return len(p), nil
}

func (l *lastBytes) String() string { return l.b.String() }

// lineWriter calls a function for each line that is written to it.
type lineWriter struct {
	each func(string)
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			if len(w.rest) > 64<<10 {
				w.rest = nil
			}
			return len(p), nil
		}
		w.each(strings.TrimSpace(string(line)))
		w.rest = rest
	}
}

// quote makes one word of s for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var errNoPackages = fmt.Errorf("the base has no list of packages")
