package firerunner

import (
	"fmt"
	"net/netip"
	"time"
)

// Desired is what control wants of a runner. It only ever changes from Wanted to Unwanted.
type Desired string

// What control may want.
const (
	Wanted   Desired = "wanted"
	Unwanted Desired = "gone"
)

// Outcome is how a life ended. It is written once.
type Outcome string

// The outcomes. Rejected means that it ended before a job started, so trying again elsewhere is safe. Failed
// means that a job had started: it is never run twice in silence.
const (
	Succeeded Outcome = "succeeded" // its job ended well
	Failed    Outcome = "failed"    // its job failed, or the microVM did while a job ran
	Cancelled Outcome = "cancelled" // its job was cancelled, or nobody wanted it any more
	Rejected  Outcome = "rejected"  // it could not be made, or never took a job
	Lost      Outcome = "lost"      // its microVM vanished
)

// Reason is a short stable code that says why something happened; a message beside it says it to people.
type Reason string

// Reasons for an end of life and for refusals.
const (
	ReasonJobDone       Reason = "job_done"        // the job it took has ended
	ReasonNoDemand      Reason = "no_demand"       // no pending job wants it
	ReasonNoJob         Reason = "no_job"          // it was ready and GitLab gave it no job in time
	ReasonDeadline      Reason = "deadline"        // it stayed too long in a state
	ReasonCreateFailed  Reason = "create_failed"   // the driver could not make the microVM
	ReasonCredential    Reason = "credential"      // GitLab did not give a credential
	ReasonVMExited      Reason = "vm_exited"       // the microVM ended without the guest's word
	ReasonVMLost        Reason = "vm_lost"         // the driver no longer knows the microVM
	ReasonHostLost      Reason = "host_lost"       // its host has been silent for too long
	ReasonRunnerExited  Reason = "runner_exited"   // gitlab-runner ended in the guest without a result
	ReasonGuestError    Reason = "guest_error"     // the guest said that it cannot work
	ReasonJobCancelled  Reason = "job_cancelled"   // its job was cancelled in GitLab
	ReasonShutdown      Reason = "shutdown"        // the daemon was told to end
	ReasonSizeRefused   Reason = "size_refused"    // the size asked for is beyond the limits
	ReasonSizeAmbiguous Reason = "size_ambiguous"  // more than one size was asked for
	ReasonQueueFull     Reason = "queue_full"      // scheduler.queue_size runners are waiting already
	ReasonProfile       Reason = "profile_unclear" // more than one profile was asked for
)

// Runner is FireRunner's record of one life: one job's place to run, one credential, one microVM. The microVM
// has the runner's ID. The credential itself is never stored: it goes from GitLab to the guest through memory.
type Runner struct {
	ID         string // 16 lower-case letters and digits, ordered by time of creation
	Demand     Demand // the project and the exact tags it serves
	Profile    string
	Size       Size
	Image      string // digest of the image it boots
	State      State
	Desired    Desired
	Outcome    Outcome    // empty while it lives
	Reason     Reason     // why it ended, or why it is still queued
	Message    string     // the reason in words
	Host       string     // empty until Placed
	Address    netip.Addr // from its host's pool, from Placed on; invalid: the host has none
	Controller string     // who moves it from Placed on; empty: a site's only controller
	GitLabID   int64      // id of its runner in GitLab; 0 = none exists as far as we know
	JobID      int64      // the job that it really took; 0 = none yet
	JobKey     JobKey     // that job's token, sealed, while GitLab may have to be told that it failed
	Report     int64      // sequence number of the last guest report that was applied
	Version    int64      // rises with each save; a save under an older one is refused with Conflict
	CreatedAt  time.Time
	MovedAt    time.Time // when it came into its state
	Deadline   time.Time // when it must have left its state; zero = none
}

// NewRunner returns a queued runner for a demand.
func NewRunner(id string, d Demand, now time.Time) Runner {
	return Runner{ID: id, Demand: d, State: Queued, Desired: Wanted, CreatedAt: now, MovedAt: now}
}

// Live reports whether anything of the runner may still exist outside the store.
func (r Runner) Live() bool { return r.State < Gone }

// Supply reports whether the runner may still take a pending job: it counts against demand.
func (r Runner) Supply() bool {
	return r.State < Running && r.Desired == Wanted && r.JobID == 0
}

// Reserves reports whether the runner holds capacity on its host.
func (r Runner) Reserves() bool { return r.State >= Placed && r.State < Gone }

// Overdue reports whether the runner's deadline has passed.
func (r Runner) Overdue(now time.Time) bool {
	return r.State < Gone && !r.Deadline.IsZero() && now.After(r.Deadline)
}

// Move puts the runner into a greater state on behalf of owner and returns the event to append in the same
// transaction. It fails with Internal where the lifecycle does not permit the step: that is a mistake of ours.
func (r *Runner) Move(to State, owner Owner, limits Deadlines, now time.Time, message string) (Event, error) {
	if !MayMove(r.State, to, owner) {
		return Event{}, Errorf(Internal, "runner %s may not go from %s to %s by %s", r.ID, r.State, to, owner)
	}
	e := Event{
		At: now, Kind: EventMoved, RunnerID: r.ID, JobID: r.JobID, ProjectID: r.Demand.ProjectID,
		From: r.State, To: to, Took: now.Sub(r.MovedAt), Actor: string(owner), Reason: r.Reason, Message: message,
	}
	r.State, r.MovedAt, r.Deadline = to, now, time.Time{}
	if within := limits.Of(to); within > 0 {
		r.Deadline = now.Add(within)
	}
	return e, nil
}

// End says that the runner is to go, once and for all, with the outcome that it has unless one is written
// already. The first call wins: it returns ok = false when the runner was unwanted before.
func (r *Runner) End(outcome Outcome, reason Reason, actor, message string, now time.Time) (e Event, ok bool) {
	if r.Desired == Unwanted {
		return Event{}, false
	}
	r.Desired, r.Outcome, r.Reason, r.Message = Unwanted, outcome, reason, message
	return Event{
		At: now, Kind: EventUnwanted, RunnerID: r.ID, JobID: r.JobID, ProjectID: r.Demand.ProjectID,
		From: r.State, To: r.State, Actor: actor, Reason: reason, Message: fmt.Sprintf("%s: %s", outcome, message),
	}, true
}
