package provision

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// FuzzLines: whatever a guest writes into the log, what was read ends at the end of a line, rises, and is never more
// than there is.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"msg\":\"took 7\"}\nhalf a line"), int64(0))
	f.Add([]byte(strings.Repeat("x", mostLine+10)+"\n\n"), int64(7))
	f.Fuzz(func(t *testing.T, text []byte, from int64) {
		from &= 1 << 30
		fl := follower{from: from, found: make(chan found), parse: func(line []byte) (firerunner.GuestReport, bool) {
			require.LessOrEqual(t, len(line), mostLine)
			require.NotContains(t, string(line), "\n")
			return firerunner.GuestReport{}, true
		}}
		done := make(chan error, 1)
		go func() { done <- fl.lines(context.Background(), bytes.NewReader(text)) }()
		last, lines := from, 0
		for {
			select {
			case what := <-fl.found:
				require.Greater(t, what.upTo, last)
				require.Equal(t, byte('\n'), text[what.upTo-from-1])
				last, lines = what.upTo, lines+1
				continue
			case err := <-done:
				require.NoError(t, err)
			}
			break
		}
		require.Equal(t, bytes.Count(text, []byte("\n")), lines)
	})
}

func TestClean(t *testing.T) {
	t.Parallel()
	require.Equal(t, "[31mred", clean("\x1b[31mred\n"))
	require.LessOrEqual(t, len(clean(strings.Repeat("ü", 500))), 210)
	require.Equal(t, `'it'\''s'`, quoted("it's"))
	var b bounded
	for range 10 {
		n, err := b.Write(bytes.Repeat([]byte("x"), mostOutput/3))
		require.NoError(t, err)
		require.Equal(t, mostOutput/3, n)
	}
	require.Equal(t, mostOutput, b.Len())
}
