// Package storetest holds the promises of firerunner.Store as tests. Every store passes it:
//
//	func TestStore(t *testing.T) {
//		storetest.Exercise(t, func(t *testing.T) storetest.Subject { ... })
//	}
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// Subject is a new, empty store. The suite closes it; closing twice is no error.
type Subject struct {
	Store firerunner.Store
	// Steps returns the steps that were enqueued by transactions that committed, in order.
	Steps func() []firerunner.Step
	// Together runs n Updates so that all others wait while the first is inside, and come in their order. nil: the store has
	// no groups.
	Together func(n int, do func(i int, tx firerunner.Tx) error) []error
}

// Exercise runs the suite; open is called for each test.
func Exercise(t *testing.T, open func(t *testing.T) Subject) {
	for _, test := range []struct {
		name string
		run  func(s *suite)
	}{
		{"RunnerOK", (*suite).runnerOK},
		{"RunnerErrNotFound", (*suite).runnerErrNotFound},
		{"RunnerErrConflict", (*suite).runnerErrConflict},
		{"RunnerQueries", (*suite).runnerQueries},
		{"JobOK", (*suite).jobOK},
		{"JobMonotonic", (*suite).jobMonotonic},
		{"JobQueries", (*suite).jobQueries},
		{"HostsOK", (*suite).hostsOK},
		{"HostRemoved", (*suite).hostRemoved},
		{"AddressOnce", (*suite).addressOnce},
		{"AddressRace", (*suite).addressRace},
		{"ProjectsOK", (*suite).projectsOK},
		{"EventsOK", (*suite).eventsOK},
		{"EventQueries", (*suite).eventQueries},
		{"TextsOK", (*suite).textsOK},
		{"LongTagsOK", (*suite).longTagsOK},
		{"DeliveryOK", (*suite).deliveryOK},
		{"DeliveryRace", (*suite).deliveryRace},
		{"UpdateErrUndoesAll", (*suite).updateErrUndoesAll},
		{"UpdatePanicUndoesAll", (*suite).updatePanicUndoesAll},
		{"UpdateIsolated", (*suite).updateIsolated},
		{"UpdateSerialised", (*suite).updateSerialised},
		{"UpdateErrStaleVersion", (*suite).updateErrStaleVersion},
		{"UpdateFailsAlone", (*suite).updateFailsAlone},
		{"UpdateErrContext", (*suite).updateErrContext},
		{"CloseOK", (*suite).closeOK},
		{"Random", func(s *suite) { s.random(open) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			subject := open(t)
			t.Cleanup(func() { require.NoError(t, subject.Store.Close()) })
			test.run(&suite{T: t, Subject: subject})
		})
	}
}

type suite struct {
	*testing.T
	Subject
}

// noon is when everything happens. Stores keep times to the microsecond.
func noon() time.Time { return today }

// today is no fixed day: deliveries of last week are forgotten.
var today = time.Now().UTC().Truncate(24 * time.Hour).Add(12*time.Hour + 123456*time.Microsecond)

// patience is for what must come; it is never waited for when all is well.
const patience = 20 * time.Second

func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.Cleanup(cancel)
	return ctx
}

// update runs do in a transaction that must commit.
func (s *suite) update(do func(ctx context.Context, tx firerunner.Tx) error) {
	s.Helper()
	ctx := s.ctx()
	require.NoError(s, s.Store.Update(ctx, func(tx firerunner.Tx) error { return do(ctx, tx) }))
}

func (s *suite) requireCode(want firerunner.Code, err error) {
	s.Helper()
	require.Error(s, err)
	require.Equal(s, want, firerunner.CodeOf(err), "%v", err)
}

// awkward is text as users and attackers write it.
const awkward = "it's \"a\" name; DROP TABLE runners;--\n\t%_?1 \u202e 火🔥 \\"

func runnerNumber(n int) firerunner.Runner {
	r := firerunner.NewRunner(fmt.Sprintf("runner%010d", n), firerunner.Demand{ProjectID: 1, Tags: "a"}, noon().Add(time.Duration(n)*time.Second))
	return r
}

func (s *suite) create(all ...firerunner.Runner) {
	s.Helper()
	s.update(func(ctx context.Context, tx firerunner.Tx) error {
		for _, r := range all {
			if err := tx.CreateRunner(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// everything writes one of each kind, so that undoing can be seen.
func everything(ctx context.Context, tx firerunner.Tx) error {
	_, jobErr := tx.SaveJob(ctx, firerunner.Job{ID: 1, Status: firerunner.JobPending})
	_, deliveryErr := tx.TakeDelivery(ctx, "key", noon())
	return errors.Join(
		tx.CreateRunner(ctx, runnerNumber(1)),
		jobErr,
		tx.SaveHost(ctx, firerunner.Host{Name: "host"}),
		tx.SaveProject(ctx, firerunner.Project{ID: 1, Path: "a/b", SeenAt: noon()}),
		tx.AddEvent(ctx, firerunner.Event{At: noon(), Kind: firerunner.EventQueued}),
		deliveryErr,
		tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace}),
	)
}

// requireNothing checks that nothing of everything is there.
func (s *suite) requireNothing() {
	s.Helper()
	ctx := s.ctx()
	runners, err := s.Store.Runners(ctx, firerunner.RunnerQuery{})
	require.NoError(s, err)
	jobs, err := s.Store.Jobs(ctx, firerunner.JobQuery{})
	require.NoError(s, err)
	hosts, err := s.Store.Hosts(ctx)
	require.NoError(s, err)
	projects, err := s.Store.Projects(ctx, time.Time{})
	require.NoError(s, err)
	events, err := s.Store.Events(ctx, firerunner.EventQuery{})
	require.NoError(s, err)
	require.Empty(s, runners)
	require.Empty(s, jobs)
	require.Empty(s, hosts)
	require.Empty(s, projects)
	require.Empty(s, events)
	require.Empty(s, s.Steps())
	s.update(func(ctx context.Context, tx firerunner.Tx) error {
		fresh, err := tx.TakeDelivery(ctx, "key", noon())
		require.True(s, fresh, "the delivery must have been forgotten")
		return err
	})
}
