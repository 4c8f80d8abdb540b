package sim

import (
	"time"

	"github.com/firerunner/firerunner"
)

// microVM is one of the fleet, with the guest in it: the agent and a gitlab-runner that takes one job.
type microVM struct {
	w         *world
	spec      firerunner.MicroVMSpec
	owner     string // the controller in whose part of the ledger it is
	life      life
	madeAt    time.Time
	alive     bool // it has not ended by itself
	destroyed bool
	late      bool // see removing
	hello     bool
	mute      bool // its agent says nothing any more
	reports   []firerunner.GuestReport
	changed   chan struct{} // closed at the next report, and at its end
	harm      map[string]bool

	job      int64 // that it has now
	took     []int64
	ran      []int64 // whose scripts began
	waitTill time.Time
	stopped  bool // told to end its job
	finish   bool // told to take none
}

// life is what chance has in store for a microVM.
type life struct {
	boot     time.Duration
	never    bool          // it never says hello
	diesIn   time.Duration // 0: it does not
	muteIn   time.Duration // its agent hangs, the job goes on
	lies     string        // what nonsense it says
	losesOne float64       // how often a report of it is lost before anybody has it
	leaves   bool          // gitlab-runner ends before it has a job
	idle     bool          // gitlab-runner never asks for one
	graceful bool
	old      bool // its agent hands out no job keys
}

func (vm *microVM) seen() firerunner.MicroVM {
	return firerunner.MicroVM{ID: vm.spec.ID, Host: vm.spec.Host, Alive: vm.alive, CreatedAt: vm.madeAt, Deadline: vm.spec.Deadline}
}

func (vm *microVM) wake() {
	close(vm.changed)
	vm.changed = make(chan struct{})
}

// in does something later if the microVM is still alive then.
func (vm *microVM) in(d time.Duration, do func()) {
	vm.w.after(d, func() {
		if vm.alive {
			do()
		}
	})
}

// say is a report of the guest. It may get lost.
func (vm *microVM) say(r firerunner.GuestReport) {
	if vm.mute || vm.w.happens(vm.life.losesOne) {
		vm.harm[harmLost] = true
		vm.w.say("report lost", "runner", vm.spec.ID, "report", r.Kind, "job", r.JobID)
		return
	}
	vm.append(r)
}

func (vm *microVM) append(r firerunner.GuestReport) {
	r.Seq, r.At = int64(len(vm.reports))+1, time.Now()
	vm.reports = append(vm.reports, r)
	vm.w.say("guest", "runner", vm.spec.ID, "report", r.Kind, "job", r.JobID, "success", r.Success, "message", r.Message)
	vm.wake()
}

// exit is the microVM's end, which its driver reports, whatever the guest does.
func (vm *microVM) exit(why string) {
	if !vm.alive {
		return
	}
	vm.alive = false
	vm.append(firerunner.GuestReport{Kind: firerunner.ReportExited, Message: why})
}

func (vm *microVM) begin(now time.Time) {
	// Whoever ends it counts the time from here on, by the clock of who made it.
	vm.in(vm.spec.Deadline.Sub(now), func() { vm.exit("its deadline passed") })
	if l := vm.life; l.diesIn > 0 {
		vm.in(l.diesIn, func() {
			vm.harm["it died"] = true
			vm.exit("died")
		})
	}
	if l := vm.life; l.muteIn > 0 {
		vm.in(l.muteIn, func() {
			vm.harm[harmMute] = true
			vm.mute = true
		})
	}
	if vm.life.never {
		vm.harm["it never says hello"] = true
		return
	}
	vm.in(vm.life.boot, func() {
		vm.hello = true
		vm.say(firerunner.GuestReport{Kind: firerunner.ReportHello})
		vm.say(firerunner.GuestReport{Kind: firerunner.ReportStarted})
		vm.waitTill = time.Now().Add(vm.spec.Start.WaitTimeout)
		vm.lie()
		if vm.life.idle {
			vm.harm["it never asks for a job"] = true
			return
		}
		vm.in(vm.w.between(50*time.Millisecond, time.Second), vm.ask)
	})
}

// guestPoll is how often gitlab-runner asks for a job.
const guestPoll = 3 * time.Second

// ask asks GitLab for a job.
func (vm *microVM) ask() {
	switch {
	case vm.life.leaves:
		vm.leave(1, "exited by itself")
		return
	case vm.finish || vm.stopped, time.Now().After(vm.waitTill):
		vm.leave(0, "no job")
		return
	case vm.w.gitlabAway(), vm.w.happens(vm.w.faults.gitlabFails):
		vm.in(guestPoll, vm.ask)
		return
	}
	j, known := vm.w.gitlab.Request(vm.spec.Start.Token.Reveal(), vm.life.graceful)
	if !known {
		vm.leave(1, "GitLab does not know the runner's token")
		return
	}
	if j == nil {
		vm.in(guestPoll, vm.ask)
		return
	}
	vm.job, vm.took = j.ID, append(vm.took, j.ID)
	vm.w.say("job handed out", "runner", vm.spec.ID, "job", j.ID, "gitlab", j.Runner)
	vm.w.trace("handout", vm.spec.ID, "")
	vm.w.checkHandout(vm, j)
	if vm.w.happens(vm.w.faults.cancelTaken) {
		vm.w.after(vm.w.between(0, 4*time.Second), func() { vm.w.cancel(j.ID) })
	}
	vm.in(vm.w.between(10*time.Millisecond, 300*time.Millisecond), func() {
		vm.say(firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: j.ID, JobKey: vm.key(j)})
		vm.in(vm.w.between(100*time.Millisecond, 2*time.Second), func() { vm.script(j) })
	})
}

// key is the job's token as the guest agent seals it. Some agents are older and hand out none.
func (vm *microVM) key(j *Job) firerunner.JobKey {
	if vm.life.old {
		return ""
	}
	key, err := firerunner.SealJobKey(vm.spec.Start.SealTo, vm.spec.Start.RunnerID, j.ID, j.Token())
	if err != nil {
		vm.w.problem("sealing the token of job %d: %v", j.ID, err)
	}
	return key
}

// script begins the job. One that was cancelled meanwhile does not begin, and gitlab-runner asks for another.
func (vm *microVM) script(j *Job) {
	if j.Status != firerunner.JobRunning {
		if j.Status == firerunner.JobCanceling {
			vm.w.gitlab.Finish(j.ID, firerunner.JobFailed, "job_canceled")
		}
		vm.job = 0
		vm.in(vm.w.between(10*time.Millisecond, 100*time.Millisecond), vm.ask)
		return
	}
	vm.ran, j.ran = append(vm.ran, j.ID), append(j.ran, vm.spec.ID)
	vm.w.say("job begins", "runner", vm.spec.ID, "job", j.ID)
	vm.w.checkRun(vm, j)
	vm.work(j, time.Now().Add(j.takes))
}

// work is the job's time, in pieces after each of which gitlab-runner hears from GitLab.
func (vm *microVM) work(j *Job, until time.Time) {
	vm.in(min(time.Until(until), 5*time.Second), func() {
		switch {
		case j.Status != firerunner.JobRunning:
			vm.result(j, firerunner.JobFailed, "job_canceled")
		case vm.stopped:
			vm.result(j, firerunner.JobFailed, "runner_interrupted")
		case time.Now().Before(until):
			vm.work(j, until)
		case j.fails:
			vm.result(j, firerunner.JobFailed, "script_failure")
		default:
			vm.result(j, firerunner.JobSuccess, "")
		}
	})
}

// result tells GitLab, again and again until it answers, then the host.
func (vm *microVM) result(j *Job, status firerunner.JobStatus, failure string) {
	if vm.w.gitlabAway() || vm.w.happens(vm.w.faults.gitlabFails) {
		vm.in(vm.w.between(time.Second, 5*time.Second), func() { vm.result(j, status, failure) })
		return
	}
	vm.w.gitlab.Finish(j.ID, status, failure)
	if j.Status == firerunner.JobCanceled {
		status, failure = firerunner.JobFailed, "job_canceled"
	}
	vm.job = 0
	vm.in(vm.w.between(10*time.Millisecond, 200*time.Millisecond), func() {
		vm.say(firerunner.GuestReport{
			Kind: firerunner.ReportJobDone, JobID: j.ID, Success: status == firerunner.JobSuccess, Failure: failure,
		})
		vm.leave(0, "")
	})
}

// leave is gitlab-runner's end, and soon after the microVM's.
func (vm *microVM) leave(status int, message string) {
	vm.say(firerunner.GuestReport{Kind: firerunner.ReportRunnerExited, ExitCode: status, Message: message})
	if vm.mute { // the agent hangs, so nobody turns the machine off
		return
	}
	vm.in(vm.w.between(50*time.Millisecond, time.Second), func() { vm.exit("the guest turned its machine off") })
}

func (vm *microVM) order(o firerunner.GuestOrder) {
	if vm.mute {
		return
	}
	switch o {
	case firerunner.OrderFinish:
		vm.finish = true
	case firerunner.OrderStop:
		vm.stopped = true
		if vm.job != 0 {
			vm.harm[harmStop] = true
			vm.w.checkStop(vm)
		}
	}
}

// lie says what a hostile guest may say.
func (vm *microVM) lie() {
	if vm.life.lies == "" {
		return
	}
	vm.harm["it lies: "+vm.life.lies] = true
	vm.in(vm.w.between(0, 20*time.Second), func() {
		r := firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: vm.w.anyJob()}
		switch vm.life.lies {
		case "claims a job":
		case "claims no job of anybody":
			r.JobID = 1 << 60
		case "claims nonsense":
			r.JobID = -5
		case "says done before it began":
			r.Kind, r.Success = firerunner.ReportJobDone, true
		case "says words that nobody knows":
			r.Kind = "dance"
		case "says hello twice":
			r.Kind = firerunner.ReportHello
		case "cannot work":
			r.Kind, r.Message = firerunner.ReportError, "disk is upside down"
		}
		vm.append(r)
	})
}
