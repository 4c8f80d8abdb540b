package firerunner

import (
	"context"
	"time"
)

// GuestStart is what the host tells the guest once it has said hello: the way to GitLab and the credential that is
// good for one runner. The channel adds the time and fresh randomness when it is sent.
type GuestStart struct {
	GitLabURL   string
	Token       Secret // the runner's authentication token (glrt-...)
	CA          string // PEM; empty = the guest's own roots
	Name        string // the runner's name, shown in job logs
	MachineID   string // 32 hexadecimal digits
	Hostname    string
	Network     GuestNetwork
	WaitTimeout time.Duration // how long gitlab-runner waits for its one job
	OutputKiB   int           // most that a job's log may hold; 0 = gitlab-runner's default
	RunnerID    string        // whose guest this is; it is sealed into job keys
	SealTo      string        // the public key for which a job's token is sealed (SealKey.Public); empty: it is not handed out
}

// ReportKind is what a guest report says.
type ReportKind string

// The reports, in the order in which they are expected. Only the first and the last are certain.
const (
	ReportHello        ReportKind = "hello"         // the guest is up and wants GuestStart
	ReportStarted      ReportKind = "started"       // gitlab-runner was started
	ReportTookJob      ReportKind = "took_job"      // GitLab gave it a job: JobID, perhaps JobKey
	ReportJobDone      ReportKind = "job_done"      // that job ended: JobID, Success, Failure, ExitCode
	ReportNotice       ReportKind = "notice"        // something for the timeline: Message
	ReportRunnerExited ReportKind = "runner_exited" // gitlab-runner ended: ExitCode, Message
	ReportError        ReportKind = "error"         // the guest cannot work: Message
	ReportExited       ReportKind = "exited"        // the microVM has ended; from the driver, not the guest; always last
)

// GuestReport is one thing that a guest, or the driver about its microVM, reported. Guest reports come from a
// machine that may be hostile: every field is data, bounded by the codec, and believed only as far as it harms
// nobody but its own job.
type GuestReport struct {
	Seq      int64 // 1, 2, 3, ... for each microVM
	At       time.Time
	Kind     ReportKind
	JobID    int64
	JobKey   JobKey `json:",omitempty"` // empty: the guest does not hand it out
	Success  bool
	Failure  string // gitlab-runner's failure_reason
	ExitCode int
	Message  string
	// ClockSkew is how far the guest's clock was ahead when it said hello, before it was set: a microVM's clock is that of
	// its host at first. 0 where it did not say. A store need not keep it.
	ClockSkew time.Duration
}

// GuestOrder is what the host may ask of a guest after the start.
type GuestOrder string

// The orders.
const (
	OrderFinish GuestOrder = "finish" // take no job any more; end when the one that runs is done
	OrderStop   GuestOrder = "stop"   // end the job now, report it to GitLab, then end
)

// GuestDesk is where guests that call over a network are known. Drivers whose hosts have no channel into the guest
// implement it; the guest endpoint asks it. All methods may be called at once from several goroutines. Errors carry a
// Code, and nothing of them is told to a guest but that Code.
type GuestDesk interface {
	// Admit lets a guest in by its one-time token and uses the token up: it returns the start and a new session, once in
	// the life of a microVM. Unauthorized: there is no such microVM, or that is not its token. Conflict: the token was
	// used before, so this is a second boot of an old disk, and the guest must turn itself off. NotFound: the start was
	// lost with an earlier daemon, and the guest must turn itself off.
	Admit(ctx context.Context, id string, token Secret) (start GuestStart, session Secret, err error)
	// Return lets a guest in again whose connection broke, and says the number of its last report that was recorded.
	Return(ctx context.Context, id string, session Secret) (last int64, err error)
	// Record makes a report of an admitted guest durable before it returns. A number that is not above the last one is
	// known already: nil.
	Record(ctx context.Context, id string, number int64, r GuestReport) error
	// Alive notes a sign of life of an admitted guest.
	Alive(id string)
	// Print keeps what the guest sent of its console, capped, until Destroy.
	Print(id string, text []byte)
	// Orders returns the orders for a guest, one that nobody has taken yet included. The newest connection has them:
	// the channel of an older one is closed.
	Orders(id string) <-chan GuestOrder
}
