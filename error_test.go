package firerunner_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestErrorCodes(t *testing.T) {
	t.Parallel()
	statuses := map[int]firerunner.Code{}
	for code, status := range map[firerunner.Code]int{
		firerunner.Internal: 1, firerunner.Invalid: 2, firerunner.NotFound: 3, firerunner.Conflict: 4,
		firerunner.Unauthorized: 5, firerunner.Unavailable: 6, firerunner.Exhausted: 7,
	} {
		err := fmt.Errorf("above: %w", firerunner.Errorf(code, "doing: %w", io.ErrUnexpectedEOF))
		require.Equal(t, code, firerunner.CodeOf(err))
		require.Equal(t, status, firerunner.ExitStatus(err))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.EqualError(t, err, "above: doing: unexpected EOF")
		require.NotContains(t, statuses, status, "%s and %s have one status", code, statuses[status])
		statuses[status] = code
	}
	require.Equal(t, 0, firerunner.ExitStatus(nil))
	require.Equal(t, 1, firerunner.ExitStatus(errors.New("unknown")))
	require.Equal(t, firerunner.Internal, firerunner.CodeOf(errors.New("unknown")))
	require.Empty(t, firerunner.CodeOf(nil))
}

func TestErrorOutermostCodeAndFirstHint(t *testing.T) {
	t.Parallel()
	inner := firerunner.Errorf(firerunner.NotFound, "no row").WithHint("look %s", "again")
	outer := firerunner.Errorf(firerunner.Unavailable, "reading: %w", inner)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(outer))
	require.Equal(t, "look again", firerunner.HintOf(outer))
	require.Equal(t, "first", firerunner.HintOf(firerunner.Errorf(firerunner.Internal, "x: %w", outer).WithHint("first")))
	require.Empty(t, firerunner.HintOf(errors.New("unknown")))
	require.Empty(t, firerunner.HintOf(nil))
}

func TestLater(t *testing.T) {
	t.Parallel()
	after, ok := firerunner.IsLater(fmt.Errorf("step: %w", firerunner.Later(3*time.Second, "the guest boots")))
	require.True(t, ok)
	require.Equal(t, 3*time.Second, after)
	_, ok = firerunner.IsLater(io.EOF)
	require.False(t, ok)
}
