package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// Tests that need several processes start this test binary again with a role.
const (
	roleVariable = "FIRERUNNER_TEST_ROLE"
	pathVariable = "FIRERUNNER_TEST_PATH"
)

// role plays the role that this process was started for; false if it is the test itself.
func role() bool {
	path := os.Getenv(pathVariable)
	var err error
	switch os.Getenv(roleVariable) {
	case "open":
		err = roleOpen(path)
	case "hold":
		err = roleHold(path)
	case "write":
		err = roleWrite(path)
	default:
		return false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// roleOpen reads paths, a line each, opens each one's store, writes to it, and says so. All begin at once because all are
// told at once.
func roleOpen(string) error {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := openOnce(lines.Text()); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return nil
}

func openOnce(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := sqlite.Open(ctx, sqlite.Config{
		Path: path, Enqueue: enqueueInTable, Logger: discard(),
		Migrate: []func(context.Context, *sql.DB) error{stepTable},
	})
	if err != nil {
		return err
	}
	if err := store.Update(ctx, func(tx firerunner.Tx) error {
		if err := tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventDaemon}); err != nil {
			return err
		}
		return tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace})
	}); err != nil {
		return err
	}
	return store.Close()
}

// roleHold holds the database until it is killed.
func roleHold(path string) error {
	if _, err := sqlite.Hold(path); err != nil {
		return err
	}
	fmt.Println("held")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// roleWrite creates runners and says each one's number once its transaction has committed, until it is killed.
func roleWrite(path string) error {
	ctx := context.Background()
	store, err := sqlite.Open(ctx, sqlite.Config{Path: path, Logger: discard()})
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("runner%d-%d", w, n)
				if err := store.Update(ctx, func(tx firerunner.Tx) error {
					if err := tx.CreateRunner(ctx, firerunner.Runner{ID: id, State: firerunner.Queued}); err != nil {
						return err
					}
					return tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventQueued, RunnerID: id})
				}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Println(id)
			}
		})
	}
	all.Wait()
	return nil
}

type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err strings.Builder
}

func startRole(t *testing.T, role, path string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), roleVariable+"="+role, pathVariable+"="+path)
	p.Stderr = &p.err
	var err error
	p.in, err = p.StdinPipe()
	require.NoError(t, err)
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewReader(out)
	require.NoError(t, p.Start())
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
	return p
}

// TestOpenTogether: four processes that open one new file at once all come up, twenty times.
func TestOpenTogether(t *testing.T) {
	const rounds, opening = 20, 4
	var all []*process
	for range opening {
		all = append(all, startRole(t, "open", "several"))
	}
	for round := range rounds {
		path := newPath(t)
		for _, p := range all {
			_, err := fmt.Fprintln(p.in, path)
			require.NoError(t, err)
		}
		for _, p := range all {
			line, err := p.out.ReadString('\n')
			if err != nil {
				_ = p.Wait()
			}
			require.NoError(t, err, "round %d: %s", round, &p.err)
			require.Equal(t, "done\n", line)
		}
		events, err := open(t, sqlite.Config{Path: path}).Events(t.Context(), firerunner.EventQuery{})
		require.NoError(t, err)
		require.Len(t, events, opening)
	}
}

func TestHoldErrConflict(t *testing.T) {
	path := newPath(t)
	other := startRole(t, "hold", path)
	line, err := other.out.ReadString('\n')
	require.NoError(t, err, "%s", &other.err)
	require.Equal(t, "held\n", line)

	_, err = sqlite.Hold(path)
	require.Error(t, err)
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
	require.Contains(t, err.Error(), strconv.Itoa(other.Process.Pid))
	require.NotEmpty(t, firerunner.HintOf(err))

	open(t, sqlite.Config{Path: path}) // looking is allowed

	// AfterCrash: the kernel gives the lock back.
	require.NoError(t, other.Process.Signal(syscall.SIGKILL))
	require.Error(t, other.Wait())
	release, err := sqlite.Hold(path)
	require.NoError(t, err)
	_, err = sqlite.Hold(path)
	require.ErrorContains(t, err, strconv.Itoa(os.Getpid()))
	release()
	release, err = sqlite.Hold(path)
	require.NoError(t, err)
	release()
}

// TestUpdateAfterCrash: what Update said was written is there after kill -9, whole transactions only.
func TestUpdateAfterCrash(t *testing.T) {
	path := newPath(t)
	writer := startRole(t, "write", path)
	var said []string
	for range 60 {
		line, err := writer.out.ReadString('\n')
		require.NoError(t, err, "%s", &writer.err)
		said = append(said, strings.TrimSpace(line))
	}
	require.NoError(t, writer.Process.Signal(syscall.SIGKILL))
	rest, err := io.ReadAll(writer.out)
	require.NoError(t, err)
	for _, line := range strings.SplitAfter(string(rest), "\n") {
		if id, whole := strings.CutSuffix(line, "\n"); whole {
			said = append(said, id)
		}
	}
	require.Error(t, writer.Wait())

	store := open(t, sqlite.Config{Path: path})
	for _, id := range said {
		_, err := store.Runner(t.Context(), id)
		require.NoError(t, err)
	}
	runners, err := store.Runners(t.Context(), firerunner.RunnerQuery{})
	require.NoError(t, err)
	events, err := store.Events(t.Context(), firerunner.EventQuery{})
	require.NoError(t, err)
	require.Len(t, events, len(runners))
}
