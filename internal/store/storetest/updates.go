package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

var errOnPurpose = errors.New("on purpose")

func (s *suite) updateErrUndoesAll() {
	err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error {
		require.NoError(s, everything(s.ctx(), tx))
		return errOnPurpose
	})
	require.ErrorIs(s, err, errOnPurpose)
	s.requireNothing()
}

func (s *suite) updatePanicUndoesAll() {
	require.PanicsWithValue(s, "on purpose", func() {
		_ = s.Store.Update(s.ctx(), func(tx firerunner.Tx) error {
			require.NoError(s, everything(s.ctx(), tx))
			panic("on purpose")
		})
	})
	s.requireNothing()
}

// updateIsolated: a transaction sees what it wrote; others see it once it has committed.
func (s *suite) updateIsolated() {
	s.update(func(ctx context.Context, tx firerunner.Tx) error {
		require.NoError(s, everything(ctx, tx))
		_, err := tx.Runner(ctx, runnerNumber(1).ID)
		require.NoError(s, err)
		events, err := tx.Events(ctx, firerunner.EventQuery{})
		require.NoError(s, err)
		require.Len(s, events, 1)

		_, err = s.Store.Runner(ctx, runnerNumber(1).ID)
		s.requireCode(firerunner.NotFound, err)
		outside, err := s.Store.Events(ctx, firerunner.EventQuery{})
		require.NoError(s, err)
		require.Empty(s, outside)
		require.Empty(s, s.Steps())
		return nil
	})
	_, err := s.Store.Runner(s.ctx(), runnerNumber(1).ID)
	require.NoError(s, err)
	require.Equal(s, []firerunner.Step{{Kind: firerunner.StepPlace}}, s.Steps())
}

// updateSerialised: what is read in a transaction is still true when it writes.
func (s *suite) updateSerialised() {
	const writers, times = 16, 10
	id := runnerNumber(1).ID
	s.create(runnerNumber(1))
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range times {
				if err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error {
					r, err := tx.Runner(s.ctx(), id)
					if err != nil {
						return err
					}
					r.Report++
					if err := tx.SaveRunner(s.ctx(), &r); err != nil {
						return err
					}
					return tx.AddEvent(s.ctx(), firerunner.Event{At: noon(), Kind: firerunner.EventNotice, RunnerID: id, Took: time.Duration(r.Report)})
				}); err != nil {
					s.Errorf("update: %v", err)
				}
			}
		})
	}
	all.Wait()
	r, err := s.Store.Runner(s.ctx(), id)
	require.NoError(s, err)
	require.Equal(s, int64(writers*times), r.Report, "no update is lost")
	events, err := s.Store.Events(s.ctx(), firerunner.EventQuery{RunnerID: id})
	require.NoError(s, err)
	require.Len(s, events, writers*times)
	for i, e := range events {
		require.Equal(s, time.Duration(i+1), e.Took, "events are in the order of their transactions")
	}
}

// updateErrStaleVersion: of several who read outside and then save, one wins each round.
func (s *suite) updateErrStaleVersion() {
	const savers = 16
	s.create(runnerNumber(1))
	read, err := s.Store.Runner(s.ctx(), runnerNumber(1).ID)
	require.NoError(s, err)
	var won, lost atomic.Int32
	var all sync.WaitGroup
	for i := range savers {
		all.Go(func() {
			mine := read
			mine.Message = fmt.Sprint("saver ", i)
			err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error { return tx.SaveRunner(s.ctx(), &mine) })
			switch firerunner.CodeOf(err) {
			case "":
				won.Add(1)
			case firerunner.Conflict:
				lost.Add(1)
			default:
				s.Errorf("save: %v", err)
			}
		})
	}
	all.Wait()
	require.Equal(s, int32(1), won.Load())
	require.Equal(s, int32(savers-1), lost.Load())
}

// updateFailsAlone: transactions that come together fail one by one.
func (s *suite) updateFailsAlone() {
	const many = 60
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			defer func() {
				if p := recover(); (p != nil) != (i%3 == 1) {
					s.Errorf("transaction %d: recovered %v", i, p)
				}
			}()
			err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error {
				if err := tx.CreateRunner(s.ctx(), runnerNumber(i)); err != nil {
					return err
				}
				if err := tx.AddEvent(s.ctx(), firerunner.Event{At: noon(), Kind: firerunner.EventQueued, RunnerID: runnerNumber(i).ID}); err != nil {
					return err
				}
				if err := tx.Enqueue(s.ctx(), firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: runnerNumber(i).ID}); err != nil {
					return err
				}
				switch i % 3 {
				case 0:
					return errOnPurpose
				case 1:
					panic("on purpose")
				}
				return nil
			})
			if (err != nil) != (i%3 == 0) {
				s.Errorf("transaction %d: %v", i, err)
			}
		})
	}
	all.Wait()
	runners, err := s.Store.Runners(s.ctx(), firerunner.RunnerQuery{})
	require.NoError(s, err)
	events, err := s.Store.Events(s.ctx(), firerunner.EventQuery{})
	require.NoError(s, err)
	require.Len(s, runners, many/3)
	require.Len(s, events, many/3)
	require.Len(s, s.Steps(), many/3)
	for i, r := range runners {
		require.Equal(s, runnerNumber(3*i+2).ID, r.ID)
	}
}

// updateErrContext: nobody waits for others longer than its context lives, and what was begun is undone.
func (s *suite) updateErrContext() {
	ended, end := context.WithCancel(s.ctx())
	end()
	err := s.Store.Update(ended, func(firerunner.Tx) error { s.Error("must not run"); return nil })
	s.requireCode(firerunner.Unavailable, err)

	inside, release := make(chan struct{}), make(chan struct{})
	var long sync.WaitGroup
	long.Go(func() {
		if err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error {
			close(inside)
			<-release
			return tx.CreateRunner(s.ctx(), runnerNumber(1))
		}); err != nil {
			s.Errorf("the one that others wait for: %v", err)
		}
	})
	<-inside
	short, cancel := context.WithTimeout(s.ctx(), 20*time.Millisecond)
	defer cancel()
	err = s.Store.Update(short, func(firerunner.Tx) error { s.Error("must not run"); return nil })
	s.requireCode(firerunner.Unavailable, err)
	require.ErrorIs(s, err, context.DeadlineExceeded)
	close(release)
	long.Wait()

	during, stop := context.WithCancel(s.ctx())
	err = s.Store.Update(during, func(tx firerunner.Tx) error {
		require.NoError(s, tx.CreateRunner(during, runnerNumber(2)))
		stop()
		return tx.CreateRunner(during, runnerNumber(3))
	})
	s.requireCode(firerunner.Unavailable, err)
	runners, err := s.Store.Runners(s.ctx(), firerunner.RunnerQuery{})
	require.NoError(s, err)
	require.Equal(s, []firerunner.Runner{runnerNumber(1)}, runners)
}

// closeOK: Close waits for the transaction that runs, and lets in no other.
func (s *suite) closeOK() {
	require.NoError(s, s.Store.Ping(s.ctx()))
	inside, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		if err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error {
			close(inside)
			<-release
			return tx.CreateRunner(s.ctx(), runnerNumber(1))
		}); err != nil {
			s.Errorf("the one that runs: %v", err)
		}
	})
	<-inside
	all.Go(func() {
		if err := s.Store.Close(); err != nil {
			s.Errorf("close: %v", err)
		}
	})
	close(release)
	all.Wait()
	s.requireCode(firerunner.Unavailable, s.Store.Update(s.ctx(), func(firerunner.Tx) error { s.Error("must not run"); return nil }))
	require.Error(s, s.Store.Ping(s.ctx()))
}
