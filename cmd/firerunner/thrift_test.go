package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGarbageOK(t *testing.T) {
	for live, want := range map[uint64]int{0: 100, 1 << 20: 100, 6 << 20: 100, 8 << 20: 75, 12 << 20: 50, 20 << 20: 30, 24 << 20: 25, 1 << 30: 25} {
		require.Equal(t, want, garbage(live), "%d MiB in use", live>>20)
	}
}
