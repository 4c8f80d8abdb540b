package postgres_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

func together(t *testing.T, store *postgres.Store, n int, do func(i int, tx firerunner.Tx) error) []error {
	t.Helper()
	return storetest.Together(t, store, func() int { return postgres.Waiting(store) }, n, do)
}

func addEvent(ctx context.Context, tx firerunner.Tx, message string) error {
	return tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventNotice, Message: message})
}

// messages are those of all events.
func messages(t *testing.T, store *postgres.Store) (all []string) {
	t.Helper()
	events, err := store.Events(t.Context(), firerunner.EventQuery{})
	require.NoError(t, err)
	for _, e := range events {
		all = append(all, e.Message)
	}
	return all
}

// TestGroupRefused: what the database refuses of one member is undone alone, also what that one wrote earlier.
func TestGroupRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	still := time.Now()
	commits := 0
	store := open(t, postgres.Config{Now: func() time.Time { return still }, Committed: func([]firerunner.Event) { commits++ }})
	taken := firerunner.Runner{ID: "taken", Host: "h", Address: netip.MustParseAddr("10.0.0.1")}
	errs := together(t, store, 6, func(i int, tx firerunner.Tx) error {
		require.NoError(t, addEvent(ctx, tx, fmt.Sprint(i)))
		switch i {
		case 1: // its last words
			return tx.CreateRunner(ctx, taken)
		case 2:
			return tx.CreateRunner(ctx, taken)
		case 3:
			return tx.CreateRunner(ctx, firerunner.Runner{ID: "other", Host: taken.Host, Address: taken.Address})
		case 4: // in the middle
			_, err := tx.TakeDelivery(ctx, "key", still)
			require.NoError(t, err)
			events, err := tx.Events(ctx, firerunner.EventQuery{})
			require.NoError(t, err)
			require.Len(t, events, 3, "its own too")
			return context.Canceled
		}
		return nil
	})
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	requireCode(t, firerunner.Conflict, errs[2])
	require.ErrorContains(t, errs[2], `create runner "taken"`)
	requireCode(t, firerunner.Conflict, errs[3])
	require.ErrorIs(t, errs[4], context.Canceled)
	require.NoError(t, errs[5])
	require.Equal(t, []string{"0", "1", "5"}, messages(t, store))
	require.Equal(t, 1, commits)
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
		fresh, err := tx.TakeDelivery(ctx, "key", still)
		require.True(t, fresh)
		return err
	}))
}

// TestGroupSavepoint: a member that is undone takes nothing of those before it along, also where it was the one that sent it.
func TestGroupSavepoint(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	still := time.Now()
	for name, ask := range map[string]func(tx firerunner.Tx){
		"for all":    func(tx firerunner.Tx) { _, err := tx.Events(ctx, firerunner.EventQuery{}); require.NoError(t, err) },
		"for theirs": func(tx firerunner.Tx) { _, err := tx.Hosts(ctx); require.NoError(t, err) },
		"nothing":    func(firerunner.Tx) {},
	} {
		store := open(t, postgres.Config{Now: func() time.Time { return still }})
		errs := together(t, store, 3, func(i int, tx firerunner.Tx) error {
			require.NoError(t, tx.SaveHost(ctx, firerunner.Host{Name: fmt.Sprint("host", i)}), name)
			if i != 1 {
				return addEvent(ctx, tx, fmt.Sprint(i))
			}
			_, err := tx.TakeDelivery(ctx, "key", still)
			require.NoError(t, err, name)
			require.NoError(t, addEvent(ctx, tx, fmt.Sprint(i)), name)
			ask(tx)
			return context.Canceled
		})
		require.NoError(t, errs[0], name)
		require.ErrorIs(t, errs[1], context.Canceled, name)
		require.NoError(t, errs[2], name)
		require.Equal(t, []string{"0", "2"}, messages(t, store), name)
		hosts, err := store.Hosts(ctx)
		require.NoError(t, err)
		require.Len(t, hosts, 2, name)
	}
}

// TestGroupSpoilt: a statement that nobody expected to fail takes those with it that share the transaction; they may come
// again, and then it fails alone.
func TestGroupSpoilt(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	still := time.Now()
	store := open(t, postgres.Config{Now: func() time.Time { return still }})
	_, err := store.Pool().Exec(ctx, `CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'odd'; END $$`)
	require.NoError(t, err)
	_, err = store.Pool().Exec(ctx, `CREATE TRIGGER odd BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.message = '2') EXECUTE FUNCTION odd()`)
	require.NoError(t, err)
	add := func(i int, tx firerunner.Tx) error { return addEvent(ctx, tx, fmt.Sprint(i)) }

	errs := together(t, store, 5, add)
	for _, err := range errs {
		requireCode(t, firerunner.Unavailable, err)
		require.ErrorContains(t, err, "odd")
	}
	require.Empty(t, messages(t, store))

	errs = together(t, store, 5, add)
	require.ErrorContains(t, errs[2], "odd")
	errs[2] = nil
	for i, err := range errs {
		require.NoError(t, err, i)
	}
	require.Equal(t, []string{"0", "1", "3", "4"}, messages(t, store))
}

// TestGroupSteps: a step that two who share a commit ask for is added once, unless the first of them was undone.
func TestGroupSteps(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	still := time.Now()
	store := open(t, postgres.Config{Now: func() time.Time { return still }, Enqueue: enqueueInTable})
	place, demand := firerunner.Step{Kind: firerunner.StepPlace}, firerunner.Step{Kind: firerunner.StepDemand, Tags: "a"}
	errs := together(t, store, 4, func(i int, tx firerunner.Tx) error {
		require.NoError(t, tx.Enqueue(ctx, place))
		if i == 0 {
			require.NoError(t, tx.Enqueue(ctx, demand))
			_, err := tx.TakeDelivery(ctx, "key", still) // and it is undone, from the savepoint that this made
			require.NoError(t, err)
			return context.Canceled
		}
		return tx.Enqueue(ctx, demand)
	})
	require.ErrorIs(t, errs[0], context.Canceled)
	require.NoError(t, errs[3])
	require.Equal(t, []firerunner.Step{place, demand}, steps(t, store)())
}

// TestGroupDiskFull: what concerns all who share a commit is told to all, with its remedy.
func TestGroupDiskFull(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	still := time.Now()
	store := open(t, postgres.Config{Now: func() time.Time { return still }})
	_, err := store.Pool().Exec(ctx, `CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'full' USING ERRCODE = '53100'; END $$`)
	require.NoError(t, err)
	_, err = store.Pool().Exec(ctx, `CREATE TRIGGER disk_full BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION disk_full()`)
	require.NoError(t, err)
	for _, err := range together(t, store, 3, func(i int, tx firerunner.Tx) error { return addEvent(ctx, tx, fmt.Sprint(i)) }) {
		requireCode(t, firerunner.Exhausted, err)
		require.Contains(t, firerunner.HintOf(err), "make room")
	}
}
