//go:build race

package sim

// fleetJobs is fewer under the race detector, which takes ten times as long; make sim has all of them.
const fleetJobs = 100
