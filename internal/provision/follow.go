package provision

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/crypto/ssh"

	"github.com/firerunner/firerunner"
)

// mostLine is the longest line of the log that is looked at; longer ones are skipped.
const mostLine = 64 << 10

// errBroken means that the connection ended before gitlab-runner did.
var errBroken = errors.New("the connection broke")

// found is a line of the log.
type found struct {
	report firerunner.GuestReport // without a Kind where the line means nothing
	upTo   int64                  // bytes of the log up to the end of the line
}

// follower reads the log over one connection.
type follower struct {
	client *ssh.Client
	root   string
	from   int64
	parse  func([]byte) (firerunner.GuestReport, bool)
	found  chan found
}

// follow reads until the keeper has ended, which is nil; errBroken where the connection ended before.
func (f *follower) follow(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = f.client.Close() }) // the one way to end a read that waits
	defer stop()
	session, err := f.client.NewSession()
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	defer session.Close()
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	var said bounded
	session.Stderr = &said
	command := "tail -s 0.2 -c +" + strconv.FormatInt(f.from+1, 10) + " -f --pid=$(cat " + keeperFile + ") " + logFile
	if err := session.Start(f.root + "sh -c " + quoted(command)); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := f.lines(ctx, out); err != nil {
		return err
	}
	err = session.Wait()
	switch status, ok := exited(err); {
	case !ok:
		return fmt.Errorf("%w: %w", errBroken, err)
	case status != 0:
		return fmt.Errorf("exit status %d: %s", status, lastLine(said.Bytes()))
	}
	return nil
}

// lines passes each whole line on. What is not whole is read again over the next connection.
func (f *follower) lines(ctx context.Context, from io.Reader) error {
	in := bufio.NewReaderSize(from, mostLine)
	upTo, skipping := f.from, false
	for {
		line, err := in.ReadSlice('\n')
		upTo += int64(len(line))
		if errors.Is(err, bufio.ErrBufferFull) {
			skipping = true
			continue
		}
		if err != nil {
			return nil // how the session ended says the rest
		}
		what := found{upTo: upTo}
		if text := bytes.TrimSpace(line); !skipping && len(text) > 0 {
			if r, ok := f.parse(text); ok {
				what.report = r
			}
		}
		skipping = false
		select {
		case f.found <- what:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
