package flintlock

import (
	"fmt"
	"time"
)

// Bounds of the clock's sleep.
const (
	shortestSleep = 10 * time.Millisecond
	longestSleep  = time.Minute
	ledgerAgain   = time.Second // until an end that the ledger did not take is tried again
)

// stir tells the clock that there is something new to watch.
func (d *Driver) stir() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// clock ends microVMs at their deadlines and those whose guests have fallen silent, as long as the driver lives. No
// host does that, and control may be late or dead: a daemon that starts again goes on with what the ledger says.
func (d *Driver) clock() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-d.wake:
		case <-d.life.Done():
			return
		}
		timer.Reset(d.tick())
	}
}

// tick ends what is due and returns how long there is nothing more to do.
func (d *Driver) tick() time.Duration {
	sleep := longestSleep
	now := d.cfg.Now()
	for _, vm := range d.vms.all() {
		vm.mu.Lock()
		row, until, ending, silent := vm.row, vm.until, vm.ending, now.Sub(vm.aliveAt)
		vm.mu.Unlock()
		var why string
		switch {
		case row.Exited:
			continue
		case ending != "":
			why = ending
		case !now.Before(until):
			why = "ended at its deadline"
		case admitted(row) && !fromOutside(row) && silent >= d.cfg.HeartbeatTimeout:
			why = fmt.Sprintf("its guest has not been heard of for %s", silent.Round(time.Second))
		}
		if why != "" {
			if err := d.finish(d.life, vm, why); err != nil {
				d.cfg.Logger.Warn("could not write an end down; trying again", "microvm", vm.id, "in", ledgerAgain, "error", err)
				sleep = min(sleep, ledgerAgain)
			}
			continue
		}
		sleep = min(sleep, until.Sub(now))
		if admitted(row) && !fromOutside(row) {
			sleep = min(sleep, d.cfg.HeartbeatTimeout-silent)
		}
	}
	return max(sleep, shortestSleep)
}
