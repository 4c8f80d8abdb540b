package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

type ledgerThatSays struct {
	firerunner.Ledger
	err error
}

func (l ledgerThatSays) VM(context.Context, string) (firerunner.LedgerVM, error) {
	return firerunner.LedgerVM{}, l.err
}

// TestDesksUnknown: a guest whose controller nobody acts for yet, or of which we cannot know, is told to call again.
func TestDesksUnknown(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]error{"InTheLedger": nil, "NobodyKnows": firerunner.Errorf(firerunner.Unavailable, "away")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &desks{ledger: ledgerThatSays{err: says}, holds: func(string) bool { return true }}
			_, _, err := d.Admit(t.Context(), "vm", "token")
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
			_, err = d.Return(t.Context(), "vm", "session")
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(d.Record(t.Context(), "vm", 1, firerunner.GuestReport{})))
		})
	}
}
