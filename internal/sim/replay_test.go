package sim

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// One seed is one course of events, to the microsecond, whether or not somebody looks on.
func TestReplay(t *testing.T) {
	t.Parallel()
	var hashes []string
	for seed := uint64(1); seed <= 8; seed++ {
		var lines []string
		first := Run(t, Options{Seed: seed})
		second := Run(t, Options{Seed: seed, Tell: func(line string) { lines = append(lines, line) }})
		require.Equal(t, first, second, "seed %d", seed)
		hashes = append(hashes, first.Hash)
		require.True(t, slices.ContainsFunc(lines, func(l string) bool {
			return strings.Contains(l, "EVENT runner.") || strings.Contains(l, "daemon starts")
		}))
	}
	slices.Sort(hashes)
	require.Len(t, slices.Compact(hashes), 8, "and another seed is another course")
}
