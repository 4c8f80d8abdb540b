//go:build !race

package sim

const fleetJobs = 500
