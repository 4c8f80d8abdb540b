// Package sim runs the whole control plane in one process, on a clock that costs nothing, with everything around it going
// wrong: the real intake, control and placement, on a store, a queue, a GitLab, hosts and guests that are models.
//
// One seed decides everything that happens by chance: what is asked for, what breaks, when the daemon dies, and which of
// the goroutines that could go on goes on. So a seed that fails fails again, exactly:
//
//	go test ./internal/sim -run TestSeeds -seeds 1 -from 42 -v
//
// How it is done: a run is a bubble of testing/synctest, whose time passes only where everybody waits. Each thing that
// control does beyond its memory - a read, a transaction, a call to GitLab or to a driver, the begin and the end of a step
// - first asks the scheduler for its turn, and the scheduler gives one turn at a time. Between two turns the daemon may
// die; its successor finds the rows and the queue as they were.
//
// What must hold is checked while it runs (capacity, who runs what, who is killed) and afterwards from the event log and
// from what is left; see the check files. The models are kept honest: the store passes storetest, the GitLab gives the
// answers that the emulated one gives.
//
// Nothing of the product imports this package.
package sim
