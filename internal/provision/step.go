package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/firerunner/firerunner"
)

// mostOutput is how much is kept of what a step prints: for errors, and for the few answers that are read.
const mostOutput = 16 << 10

// step runs a shell command in the guest and returns what it printed. remedy is for people, where it fails. What is
// secret goes through stdin: a command line is seen by everybody in the guest.
func (g *guest) step(ctx context.Context, name, remedy, command string, stdin io.Reader) (string, error) {
	return g.stepWithin(ctx, g.Timeouts.Step, name, remedy, command, stdin)
}

func (g *guest) stepWithin(ctx context.Context, within time.Duration, name, remedy, command string, stdin io.Reader) (string, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out, err := g.execute(ctx, command, stdin)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done within %v", within)
		}
		if last := lastLine(out.err.Bytes()); last != "" {
			err = fmt.Errorf("%w: %s", err, last)
		}
		return "", g.failed(name, err).WithHint("%s", remedy)
	}
	g.told(name, time.Since(began))
	return out.out.String(), nil
}

// told puts a step into the runner's timeline, once: reading how it ended, or a signal, is news by itself.
func (g *guest) told(name string, took time.Duration) {
	g.Logger.Debug("a step of the installation is done", "vm", g.ID, "step", name, "took", took)
	if g.greeted && !g.started {
		g.Report(firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: fmt.Sprintf("%s: done in %v", name, took.Round(10*time.Millisecond))})
	}
}

// outputs is what a command printed, cut.
type outputs struct{ out, err bounded }

func (g *guest) execute(ctx context.Context, command string, stdin io.Reader) (*outputs, error) {
	out := new(outputs)
	if g.client == nil {
		return out, errors.New("there is no connection")
	}
	// A session does not end by itself when the other side is gone: only closing the connection ends every wait.
	client := g.client
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		return out, err
	}
	defer session.Close()
	session.Stdin, session.Stdout, session.Stderr = stdin, &out.out, &out.err
	return out, session.Run("sh -c " + quoted(command))
}

// failed is an error that says where and at which step.
func (g *guest) failed(step string, err error) *firerunner.Error {
	return firerunner.Errorf(firerunner.Unavailable, "provision: host %s, microVM %s, step %q: %w", g.Host, g.ID, step, err)
}

// exited reports whether a command came to its own end, and how; false where the connection broke before.
func exited(err error) (status int, ok bool) {
	if err == nil {
		return 0, true
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) && exit.Signal() == "" {
		return exit.ExitStatus(), true
	}
	return 0, false
}

// quoted makes one word of a text for a POSIX shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// bounded keeps the first mostOutput bytes, and takes all of them.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	_, _ = b.Buffer.Write(p[:min(len(p), max(mostOutput-b.Len(), 0))])
	return len(p), nil
}

func lastLine(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return clean(string(lines[len(lines)-1]))
}

// clean makes a guest's text safe to show.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return text
}
