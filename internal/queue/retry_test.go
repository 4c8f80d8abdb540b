package queue

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	for attempt, want := range map[int]time.Duration{
		-1: 500 * time.Millisecond, 0: 500 * time.Millisecond, 1: 500 * time.Millisecond, 2: time.Second, 3: 2 * time.Second,
		6: 16 * time.Second, 7: 30 * time.Second, 100: 30 * time.Second, 1 << 40: 30 * time.Second,
	} {
		for range 100 {
			got := backoff(attempt)
			require.LessOrEqual(t, got, want, attempt)
			require.GreaterOrEqual(t, got, want*9/10, attempt)
		}
	}
	now := time.Now()
	next := retryPolicy{now: func() time.Time { return now }}.NextRetry(&rivertype.JobRow{Attempt: 2})
	require.WithinRange(t, next, now.Add(900*time.Millisecond), now.Add(time.Second))
}

func TestOnlyWarnings(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(onlyWarnings{slog.NewTextHandler(&out, nil)}).With("a", 1).WithGroup("g")
	log.Info("not this")
	log.Warn("this", "b", 2)
	require.NotContains(t, out.String(), "not this")
	require.Contains(t, out.String(), "a=1 g.b=2")
}

func TestListener(t *testing.T) {
	t.Parallel()
	b := newBell()
	b.hear("ours", "others")
	b.ring("nobody's")
	require.Empty(t, b.rung)
	b.ring("ours")
	b.ring("ours") // twice before it is heard is once
	require.Len(t, b.rung, 1)
	l := &listener{bell: b}
	told := func() string {
		t.Helper()
		n, err := l.WaitForNotification(t.Context())
		require.NoError(t, err)
		return n.Payload
	}
	require.Equal(t, `{"queue":"ours"}`, told())
	require.Empty(t, b.rung)
	b.ring("others")
	require.Equal(t, `{"queue":"others"}`, told())
	b.ring()
	require.Equal(t, []string{`{"queue":"ours"}`, `{"queue":"others"}`}, []string{told(), told()})
}
