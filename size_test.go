package firerunner_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestParseSizeTag(t *testing.T) {
	t.Parallel()
	for tag, want := range map[string]firerunner.Size{
		"firecracker-2cpu-4gb":           {VCPUs: 2, MemoryMiB: 4096},
		"firecracker-0cpu-0gb":           {},
		"firecracker-02cpu-04gb":         {VCPUs: 2, MemoryMiB: 4096},
		"firecracker-999999cpu-999999gb": {VCPUs: 999999, MemoryMiB: 999999 * 1024},
	} {
		got, ok := firerunner.ParseSizeTag(tag)
		require.True(t, ok, tag)
		require.Equal(t, want, got, tag)
	}
	for _, tag := range []string{
		"", "firecracker", "firecracker-2cpu", "firecracker-2cpu-4gb ", "Firecracker-2cpu-4gb", "firecracker--2cpu-4gb",
		"firecracker-+2cpu-4gb", "firecracker-2cpu-4gib", "firecracker-1000000cpu-1gb", "firecracker-2cpu-4gb\n", "firecracker-٢cpu-4gb",
	} {
		_, ok := firerunner.ParseSizeTag(tag)
		require.False(t, ok, "%q", tag)
	}
}

func FuzzParseSizeTag(f *testing.F) {
	f.Add("firecracker-2cpu-4gb")
	f.Add("firecracker-999999cpu-000001gb")
	f.Add("firecracker-2cpu-4gb\x00")
	f.Fuzz(func(t *testing.T, tag string) {
		size, ok := firerunner.ParseSizeTag(tag)
		if !ok {
			require.Zero(t, size)
			return
		}
		require.True(t, size.VCPUs >= 0 && size.VCPUs < 1_000_000 && size.MemoryMiB >= 0 && size.MemoryMiB < 1_000_000*1024)
		require.Zero(t, size.MemoryMiB%1024)
		// The size's own word is a tag for the same size.
		again, ok := firerunner.ParseSizeTag("firecracker-" + size.String())
		require.True(t, ok)
		require.Equal(t, size, again)
		require.False(t, strings.ContainsAny(tag, ", \n"))
	})
}

func TestSizeString(t *testing.T) {
	t.Parallel()
	require.Equal(t, "2cpu-4gb", firerunner.Size{VCPUs: 2, MemoryMiB: 4096, DiskMiB: 7}.String())
	require.Equal(t, "1cpu-512mb", firerunner.Size{VCPUs: 1, MemoryMiB: 512}.String())
}

func TestSizeLimits(t *testing.T) {
	t.Parallel()
	limits := firerunner.SizeLimits{
		Min: firerunner.Size{VCPUs: 1, MemoryMiB: 1024},
		Max: firerunner.Size{VCPUs: 4, MemoryMiB: 8192},
	}
	for _, s := range []firerunner.Size{limits.Min, limits.Max, {VCPUs: 2, MemoryMiB: 2048}} {
		require.NoError(t, limits.Check(s))
	}
	for _, tag := range []string{"firecracker-0cpu-0gb", "firecracker-1cpu-0gb", "firecracker-0cpu-1gb"} {
		s, _ := firerunner.ParseSizeTag(tag)
		require.ErrorContains(t, limits.Check(s), "below the smallest that is allowed, 1cpu-1gb", tag)
	}
	for _, tag := range []string{"firecracker-5cpu-8gb", "firecracker-4cpu-9gb", "firecracker-999999cpu-999999gb"} {
		s, _ := firerunner.ParseSizeTag(tag)
		err := limits.Check(s)
		require.ErrorContains(t, err, "beyond the largest that is allowed, 4cpu-8gb", tag)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	}
}

func TestFitFlintlock(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		asked, want firerunner.Size
		why         string
	}{
		"OK":          {firerunner.Size{VCPUs: 2, MemoryMiB: 2048, DiskMiB: 7}, firerunner.Size{VCPUs: 2, MemoryMiB: 2048, DiskMiB: 7}, ""},
		"One":         {firerunner.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 7}, firerunner.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 7}, ""},
		"Odd":         {firerunner.Size{VCPUs: 3, MemoryMiB: 2048, DiskMiB: 7}, firerunner.Size{VCPUs: 4, MemoryMiB: 2048, DiskMiB: 7}, "flintlock makes 1 vCPU or an even number"},
		"LargestOdd":  {firerunner.Size{VCPUs: 31, MemoryMiB: 2048, DiskMiB: 7}, firerunner.Size{VCPUs: 32, MemoryMiB: 2048, DiskMiB: 7}, "flintlock makes 1 vCPU or an even number"},
		"SmallMemory": {firerunner.Size{VCPUs: 1, MemoryMiB: 512, DiskMiB: 7}, firerunner.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 7}, "flintlock makes no microVM below 1024 MiB"},
		"Both":        {firerunner.Size{VCPUs: 5, MemoryMiB: 1, DiskMiB: 7}, firerunner.Size{VCPUs: 6, MemoryMiB: 1024, DiskMiB: 7}, "flintlock makes 1 vCPU or an even number; flintlock makes no microVM below 1024 MiB"},
		"None":        {firerunner.Size{}, firerunner.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 0}, "flintlock makes no microVM below 1024 MiB"},
		"ErrVCPUs":    {firerunner.Size{VCPUs: 33, MemoryMiB: 2048, DiskMiB: 7}, firerunner.Size{}, "flintlock makes microVMs of at most 32 vCPUs and 32768 MiB"},
		"ErrMemory":   {firerunner.Size{VCPUs: 2, MemoryMiB: 32769, DiskMiB: 7}, firerunner.Size{}, "flintlock makes microVMs of at most 32 vCPUs and 32768 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, why := firerunner.FitFlintlock(tt.asked)
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.why, why)
		})
	}
}
