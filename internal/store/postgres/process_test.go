package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

// Tests that need several processes start this test binary again with a role.
const (
	roleVariable = "FIRERUNNER_TEST_ROLE"
	urlVariable  = "FIRERUNNER_TEST_URL"
)

// role plays the role that this process was started for; false if it is the test itself.
func role() bool {
	url := firerunner.Secret(os.Getenv(urlVariable))
	var err error
	switch os.Getenv(roleVariable) {
	case "open":
		err = roleOpen()
	case "write":
		err = roleWrite(url)
	default:
		return false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// roleOpen reads URLs, a line each, opens each one's store, writes to it, and says so. All begin at once because all are
// told at once.
func roleOpen() error {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := openOnce(firerunner.Secret(lines.Text())); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return nil
}

func openOnce(url firerunner.Secret) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := postgres.Open(ctx, postgres.Config{
		URL: url, Enqueue: enqueueInTable, Logger: discard(), Migrate: []func(context.Context, *pgxpool.Pool) error{stepTable},
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

// roleWrite creates runners and says each one's number once its transaction has committed, until it is killed.
func roleWrite(url firerunner.Secret) error {
	ctx := context.Background()
	store, err := postgres.Open(ctx, postgres.Config{URL: url, Logger: discard()})
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("runner%d-%d-%d", os.Getpid(), w, n)
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

func startRole(t *testing.T, role, url string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), roleVariable+"="+role, urlVariable+"="+url)
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

// TestOpenTogether: four processes that open one new database at once all come up, twenty times.
func TestOpenTogether(t *testing.T) {
	const rounds, opening = 20, 4
	var all []*process
	for range opening {
		all = append(all, startRole(t, "open", ""))
	}
	for round := range rounds {
		url := postgrestest.New(t)
		for _, p := range all {
			_, err := fmt.Fprintln(p.in, url)
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
		events, err := open(t, postgres.Config{URL: firerunner.Secret(url)}).Events(t.Context(), firerunner.EventQuery{})
		require.NoError(t, err)
		require.Len(t, events, opening)
	}
}

// TestEventsInOrder: a reader that pages by After, while two processes append, misses nothing. AfterCrash: both are killed,
// and what they said was written is there, in whole transactions.
func TestEventsInOrder(t *testing.T) {
	t.Parallel()
	url := freshURL(t)
	store := open(t, postgres.Config{URL: firerunner.Secret(url)})
	writers := []*process{startRole(t, "write", url), startRole(t, "write", url)}
	var paged []firerunner.Event
	page := func() {
		after := int64(0)
		if len(paged) > 0 {
			after = paged[len(paged)-1].ID
		}
		more, err := store.Events(t.Context(), firerunner.EventQuery{After: after, Limit: 50})
		require.NoError(t, err)
		paged = append(paged, more...)
	}
	said := make(chan string, 1<<16)
	var reading sync.WaitGroup
	for _, w := range writers {
		reading.Go(func() {
			for {
				line, err := w.out.ReadString('\n')
				if err != nil {
					return
				}
				said <- strings.TrimSpace(line)
			}
		})
	}
	for len(paged) < 400 {
		page()
	}
	for _, w := range writers {
		require.NoError(t, w.Process.Signal(syscall.SIGKILL))
	}
	reading.Wait()
	close(said)
	for _, w := range writers {
		require.Error(t, w.Wait())
	}
	// What a killed process had begun to commit may still become true.
	require.Eventually(t, func() bool {
		var busy int
		err := store.Pool().QueryRow(t.Context(), `select count(*) from pg_locks where locktype = 'advisory' and database =
			(select oid from pg_database where datname = current_database())`).Scan(&busy)
		return err == nil && busy == 0
	}, 30*time.Second, 10*time.Millisecond)
	for before := -1; before != len(paged); {
		before = len(paged)
		page()
	}
	all, err := store.Events(t.Context(), firerunner.EventQuery{})
	require.NoError(t, err)
	require.Equal(t, all, paged, "paging has missed some")
	runners, err := store.Runners(t.Context(), firerunner.RunnerQuery{})
	require.NoError(t, err)
	require.Len(t, runners, len(all))
	known := map[string]bool{}
	for _, r := range runners {
		known[r.ID] = true
	}
	for id := range said {
		require.True(t, known[id], "%s was said to be written", id)
	}
}
