//go:build !amd64

package flintlocktest

func rdtsc() uint64 { return 0 }
