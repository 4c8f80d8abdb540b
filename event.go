package firerunner

import "time"

// EventKind says what an event is about.
type EventKind string

// The kinds of events.
const (
	EventQueued     EventKind = "runner.queued"   // a runner was made for a demand
	EventMoved      EventKind = "runner.moved"    // From, To, Took
	EventUnwanted   EventKind = "runner.unwanted" // control wants it gone; Reason says why
	EventOverdue    EventKind = "runner.overdue"  // a deadline passed
	EventNotice     EventKind = "runner.notice"   // something that its user should know
	EventCredential EventKind = "runner.gitlab"   // its runner in GitLab was made or deleted
	EventTookJob    EventKind = "job.taken"       // RunnerID took JobID
	EventJobSeen    EventKind = "job.seen"        // first sight, or a new status: Message
	EventJobRefused EventKind = "job.refused"     // it cannot be had; Reason and Message say why
	EventFailedFor  EventKind = "job.failed_for"  // GitLab was told that the job failed, or could not be told: Reason, Message
	EventReaped     EventKind = "vm.reaped"       // something without an owner was removed
	EventHost       EventKind = "host"            // a host came, drains, is in trouble, was lost, is back: Message
	EventImage      EventKind = "image"           // an image failed on a host so often that it is given up there for a while; or works again
	EventWebhook    EventKind = "webhook"         // a project's webhook does not do its work, Reason and Message say why; or does again
	EventDaemon     EventKind = "daemon"          // start, stop, adoption
)

// Event is one line of the append-only log. The timeline, the audit, the cost record and every "why" are read
// from it. It never holds a secret.
type Event struct {
	ID        int64 // rises; given by the store
	At        time.Time
	Kind      EventKind
	RunnerID  string
	JobID     int64
	ProjectID int64
	From, To  State         // for moves
	Took      time.Duration // for moves: how long it was in From
	Actor     string        // who did it: an owner of the lifecycle, intake, sweep, expire, reap, daemon
	Reason    Reason
	Message   string
}
