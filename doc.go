// Package firerunner is the vocabulary of FireRunner and the ports between its parts.
//
// FireRunner gives every GitLab CI job a microVM of its own: made for one job, running the stock
// gitlab-runner, destroyed with everything in it.
//
// Read lifecycle.go first: the life of a runner is the program. Then runner.go and job.go (what is
// remembered), driver.go, gitlab.go, store.go and queue.go (the ports; each technology behind them has a
// folder of its own under internal/), and guest.go (what host and guest say to each other).
//
// This package imports the standard library only and does no I/O. Every other package imports it; it
// imports none of them. Package cmd/firerunner is the only place that wires them together.
package firerunner
