// Package bench measures the whole product: see docs/PERFORMANCE.md for the figures and how to get them again.
package bench

import (
	"slices"
	"time"
)

// percentile returns the value that p of 100 values do not exceed (nearest rank).
func percentile(values []time.Duration, p int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(max((len(sorted)*p+99)/100, 1), len(sorted))-1]
}
