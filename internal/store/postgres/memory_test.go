package postgres_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

// turns is two stores of one database, as two processes have them, that are used in turn.
type turns struct {
	*postgres.Store
	other *postgres.Store
	turn  atomic.Int64
}

func (s *turns) Update(ctx context.Context, do func(firerunner.Tx) error) error {
	if s.turn.Add(1)%2 == 0 {
		return s.other.Update(ctx, do)
	}
	return s.Store.Update(ctx, do)
}

func (s *turns) Close() error { return errors.Join(s.Store.Close(), s.other.Close()) }

// TestStoreInTurns: nobody can tell that there are two processes, although each remembers rows.
func TestStoreInTurns(t *testing.T) {
	t.Parallel()
	storetest.Exercise(t, func(t *testing.T) storetest.Subject {
		url := firerunner.Secret(freshURL(t))
		first := open(t, postgres.Config{URL: url, Enqueue: enqueueInTable})
		second := open(t, postgres.Config{URL: url, Enqueue: enqueueInTable})
		return storetest.Subject{Store: &turns{Store: first, other: second}, Steps: steps(t, first)}
	})
}

// TestMemory: what an Update read is not read again while nobody else saves, and is once somebody has, whoever it was.
func TestMemory(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := firerunner.Secret(freshURL(t))
	store, other := open(t, postgres.Config{URL: url}), open(t, postgres.Config{URL: url})
	message := func() (said string) {
		require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
			r, err := tx.Runner(ctx, "r")
			said = r.Message
			return err
		}))
		return said
	}
	save := func(s *postgres.Store, message string) {
		require.NoError(t, s.Update(ctx, func(tx firerunner.Tx) error {
			r, err := tx.Runner(ctx, "r")
			r.Message = message
			return errors.Join(err, tx.SaveRunner(ctx, &r))
		}))
	}
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
		return tx.CreateRunner(ctx, firerunner.Runner{ID: "r", State: firerunner.Queued, Message: "created"})
	}))
	require.Equal(t, "created", message())
	save(store, "mine")
	require.Equal(t, "mine", message())
	save(other, "another's")
	require.Equal(t, "another's", message())

	// A program that does not know of the count: the version before, or a person.
	_, err := other.Pool().Exec(ctx, `UPDATE runners SET message = 'psql', version = version + 1 WHERE id = 'r'`)
	require.NoError(t, err)
	require.Equal(t, "psql", message())
	save(store, "mine again")

	// Nobody who asks the database again could miss this, so the memory is really used.
	_, err = other.Pool().Exec(ctx, `ALTER TABLE runners DISABLE TRIGGER runners_invariants`)
	require.NoError(t, err)
	_, err = other.Pool().Exec(ctx, `UPDATE runners SET message = 'uncounted' WHERE id = 'r'`)
	require.NoError(t, err)
	require.Equal(t, "mine again", message())
	_, err = other.Pool().Exec(ctx, `ALTER TABLE runners ENABLE TRIGGER runners_invariants`)
	require.NoError(t, err)
	require.NoError(t, other.Update(ctx, func(tx firerunner.Tx) error {
		_, err := tx.SaveJob(ctx, firerunner.Job{ID: 1})
		return err
	}))
	require.Equal(t, "mine again", message(), "a new row changes none that is remembered")
	require.NoError(t, other.Update(ctx, func(tx firerunner.Tx) error {
		_, err := tx.SaveJob(ctx, firerunner.Job{ID: 1})
		return err
	}))
	require.Equal(t, "uncounted", message())

	// What was undone is not remembered.
	require.ErrorIs(t, store.Update(ctx, func(tx firerunner.Tx) error {
		r, err := tx.Runner(ctx, "r")
		r.Message = "undone"
		if _, listErr := tx.Runners(ctx, firerunner.RunnerQuery{}); err == nil && listErr == nil {
			err = tx.SaveRunner(ctx, &r)
		}
		return errors.Join(err, context.Canceled)
	}), context.Canceled)
	require.Equal(t, "uncounted", message())
}
