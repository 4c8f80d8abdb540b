package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

// noon is a time like any other.
// noon is today's: deliveries of last week are forgotten.
var noon = time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)

func addEvent(ctx context.Context, tx firerunner.Tx, n int) error {
	return tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventNotice, Message: fmt.Sprint(n)})
}

func together(t *testing.T, store *sqlite.Store, n int, do func(i int, tx firerunner.Tx) error) []error {
	t.Helper()
	return storetest.Together(t, store, func() int { return sqlite.Waiting(store) }, n, do)
}

// TestGroup: Updates that come together share a commit, in the order of coming, up to the size of a group.
func TestGroup(t *testing.T) {
	t.Parallel()
	for size, want := range map[int][]int{64: {11}, 4: {4, 4, 3}, 1: {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}} {
		var commits []int
		var order []string
		still := time.Now()
		store := open(t, sqlite.Config{GroupSize: size, Now: func() time.Time { return still }, Committed: func(events []firerunner.Event) {
			commits = append(commits, len(events))
			for i, e := range events {
				require.Positive(t, e.ID)
				require.True(t, i == 0 || e.ID > events[i-1].ID)
				order = append(order, e.Message)
			}
		}})
		for _, err := range together(t, store, 11, func(i int, tx firerunner.Tx) error { return addEvent(t.Context(), tx, i) }) {
			require.NoError(t, err)
		}
		require.Equal(t, want, commits)
		require.Equal(t, []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"}, order)
	}
}

// TestGroupEnds: the first of a group need not wait for an endless stream of others.
func TestGroupEnds(t *testing.T) {
	t.Parallel()
	var commits int
	now := time.Now()
	store := open(t, sqlite.Config{Now: func() time.Time { now = now.Add(time.Second); return now }, Committed: func([]firerunner.Event) { commits++ }})
	for _, err := range together(t, store, 5, func(i int, tx firerunner.Tx) error { return addEvent(t.Context(), tx, i) }) {
		require.NoError(t, err)
	}
	require.Equal(t, 5, commits)
}

// TestGroupBroken: when SQLite gives the whole transaction up, everybody in it learns that, and the store goes on.
func TestGroupBroken(t *testing.T) {
	t.Parallel()
	still := time.Now()
	store := open(t, sqlite.Config{Now: func() time.Time { return still }, Enqueue: func(ctx context.Context, tx *sql.Tx, _ firerunner.Step) error {
		_, err := tx.ExecContext(ctx, "ROLLBACK") // as SQLite does by itself when the disk fails
		return err
	}})
	ctx := t.Context()
	errs := together(t, store, 4, func(i int, tx firerunner.Tx) error {
		if i == 2 {
			return tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace})
		}
		return addEvent(ctx, tx, i)
	})
	for i, err := range errs[:3] {
		require.Error(t, err, i)
	}
	require.NoError(t, errs[3], "it came into the next group")
	events, err := store.Events(ctx, firerunner.EventQuery{})
	require.NoError(t, err)
	require.Len(t, events, 1)
}

// TestGroupNotInterrupted: one whose context ends in the middle of a statement fails alone. SQLite would roll back the
// whole transaction if that statement were interrupted.
func TestGroupNotInterrupted(t *testing.T) {
	t.Parallel()
	still := time.Now()
	store := open(t, sqlite.Config{
		Now: func() time.Time { return still }, Migrate: []func(context.Context, *sql.DB) error{stepTable},
		Enqueue: func(ctx context.Context, tx *sql.Tx, _ firerunner.Step) error {
			_, err := tx.ExecContext(ctx, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
				INSERT INTO steps (step) SELECT 'slow' FROM n WHERE i % 1000 = 0`)
			return err
		},
	})
	impatient, end := context.WithCancel(t.Context())
	errs := together(t, store, 4, func(i int, tx firerunner.Tx) error {
		if i != 2 {
			return addEvent(t.Context(), tx, i)
		}
		ending := time.AfterFunc(5*time.Millisecond, end)
		defer ending.Stop()
		err := tx.Enqueue(impatient, firerunner.Step{Kind: firerunner.StepPlace})
		<-impatient.Done()
		return errors.Join(err, impatient.Err())
	})
	require.ErrorIs(t, errs[2], context.Canceled)
	errs[2] = nil
	require.NoError(t, errors.Join(errs...))
	events, err := store.Events(t.Context(), firerunner.EventQuery{})
	require.NoError(t, err)
	require.Len(t, events, 3)
}

// TestGroupFull: a full disk ends no more than it must, and says so.
func TestGroupFull(t *testing.T) {
	t.Parallel()
	store := open(t, sqlite.Config{})
	ctx := t.Context()
	var pages int
	require.NoError(t, store.DB().QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages))
	exec1(t, store.DB(), fmt.Sprintf("PRAGMA max_page_count = %d", pages+2))
	long := string(make([]byte, 100_000))
	err := store.Update(ctx, func(tx firerunner.Tx) error { return tx.AddEvent(ctx, firerunner.Event{Kind: "x", Message: long}) })
	requireCode(t, firerunner.Exhausted, err)
	require.NotEmpty(t, firerunner.HintOf(err))
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error { return addEvent(ctx, tx, 1) }))
}

// TestUpdateGoexit: a test that ends inside of Update must not take the store with it.
func TestUpdateGoexit(t *testing.T) {
	t.Parallel()
	store := open(t, sqlite.Config{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = store.Update(context.Background(), func(tx firerunner.Tx) error {
			if err := addEvent(context.Background(), tx, 1); err != nil {
				return err
			}
			runtime.Goexit()
			return nil
		})
	})
	all.Wait()
	require.NoError(t, store.Update(t.Context(), func(tx firerunner.Tx) error { return addEvent(t.Context(), tx, 2) }))
	events, err := store.Events(t.Context(), firerunner.EventQuery{})
	require.NoError(t, err)
	require.Len(t, events, 1)
}

// TestUpdateImpatient: however many give up waiting or writing, and whenever, what succeeded is there, nobody hangs, and
// those who share their transactions do not notice.
func TestUpdateImpatient(t *testing.T) {
	t.Parallel()
	store := open(t, sqlite.Config{GroupSize: 5})
	long := strings.Repeat("x", 100_000) // takes long enough to write to be interrupted
	var succeeded atomic.Int64
	var all sync.WaitGroup
	for i := range 16 {
		patient := i%2 == 0
		all.Go(func() {
			for range 40 {
				ctx, cancel := context.WithCancel(context.Background())
				if !patient {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(5000))*time.Microsecond)
				}
				err := store.Update(ctx, func(tx firerunner.Tx) error {
					if patient {
						return addEvent(ctx, tx, 1)
					}
					return tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventNotice, Message: long})
				})
				cancel()
				switch {
				case err == nil:
					succeeded.Add(1)
				case patient || firerunner.CodeOf(err) != firerunner.Unavailable:
					t.Errorf("update, patient %t: %v", patient, err)
				}
			}
		})
	}
	all.Wait()
	events, err := store.Events(t.Context(), firerunner.EventQuery{})
	require.NoError(t, err)
	require.Len(t, events, int(succeeded.Load()))
	require.Zero(t, sqlite.Waiting(store))
}

// TestUpdateErrBusy: another process that writes is waited for as long as the context lives, or BusyTimeout.
func TestUpdateErrBusy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	store := open(t, sqlite.Config{Path: path, BusyTimeout: 200 * time.Millisecond})
	other, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	defer other.Close()
	conn, err := other.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = store.Update(ctx, func(firerunner.Tx) error { return nil })
	requireCode(t, firerunner.Unavailable, err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	err = store.Update(t.Context(), func(firerunner.Tx) error { return nil })
	requireCode(t, firerunner.Unavailable, err)
	require.NoError(t, store.Ping(t.Context()), "readers do not wait")

	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, store.Update(t.Context(), func(tx firerunner.Tx) error { return addEvent(t.Context(), tx, 1) }))
}

// TestCallbacks: they are called after the commit, not at all without one, and cannot harm the store.
func TestCallbacks(t *testing.T) {
	t.Parallel()
	var steps []firerunner.Step
	calls := 0
	var store *sqlite.Store
	store = open(t, sqlite.Config{
		Enqueue: enqueueInTable, Migrate: []func(context.Context, *sql.DB) error{stepTable},
		Enqueued: func(s []firerunner.Step) { steps = append(steps, s...); panic("on purpose") },
		Committed: func(events []firerunner.Event) {
			calls++
			got, err := store.Events(context.Background(), firerunner.EventQuery{})
			require.NoError(t, err)
			require.Equal(t, got, events)
		},
	})
	ctx := t.Context()
	both := func(tx firerunner.Tx) error {
		return errors.Join(addEvent(ctx, tx, 1), tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace}))
	}
	require.Error(t, store.Update(ctx, func(tx firerunner.Tx) error { return errors.Join(both(tx), errors.New("on purpose")) }))
	require.Zero(t, calls)
	require.NoError(t, store.Update(ctx, both))
	require.NoError(t, store.Update(ctx, func(firerunner.Tx) error { return nil }))
	require.Equal(t, 1, calls)
	require.Equal(t, []firerunner.Step{{Kind: firerunner.StepPlace}}, steps)
}

func TestTxErr(t *testing.T) {
	t.Parallel()
	store := open(t, sqlite.Config{})
	ctx := t.Context()
	var kept firerunner.Tx
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
		kept = tx
		requireCode(t, firerunner.Unavailable, tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace}))
		return nil
	}))
	_, err := kept.Runner(ctx, "r")
	requireCode(t, firerunner.Internal, err)
	_, err = kept.Runners(ctx, firerunner.RunnerQuery{})
	requireCode(t, firerunner.Internal, err)
	_, err = kept.SaveJob(ctx, firerunner.Job{})
	requireCode(t, firerunner.Internal, err)
	_, err = kept.TakeDelivery(ctx, "key", time.Now())
	requireCode(t, firerunner.Internal, err)
	r := firerunner.Runner{}
	for _, err := range []error{
		kept.CreateRunner(ctx, r), kept.SaveRunner(ctx, &r), kept.SaveHost(ctx, firerunner.Host{}), kept.SaveProject(ctx, firerunner.Project{}),
		kept.AddEvent(ctx, firerunner.Event{}), kept.Enqueue(ctx, firerunner.Step{}),
	} {
		requireCode(t, firerunner.Internal, err)
	}
}

// TestDeliveriesPurged: old keys go, young ones stay.
func TestDeliveriesPurged(t *testing.T) {
	t.Parallel()
	now := noon
	store := open(t, sqlite.Config{Now: func() time.Time { return now }})
	ctx := t.Context()
	take := func(key string) (fresh bool) {
		require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) (err error) {
			fresh, err = tx.TakeDelivery(ctx, key, now)
			return err
		}))
		return fresh
	}
	require.True(t, take("old"))
	now = now.Add(23 * time.Hour)
	require.True(t, take("young"))
	now = now.Add(2 * time.Hour)
	for i := range 200 {
		require.True(t, take(fmt.Sprint("later", i)))
	}
	require.True(t, take("old"), "it was forgotten")
	require.False(t, take("young"))
}
