package firerunner

import (
	"context"
	"time"
)

// Store holds the truth. Package storetest holds the suite that every store passes. Reads see only what was
// committed; Update is atomic and serialised with every other Update. Errors carry a Code.
type Store interface {
	Reader
	// Update runs do in one transaction; an error from do, or a panic, undoes it all. Steps that were enqueued in it
	// become due when it commits. It waits for a lock no longer than the context lives.
	Update(ctx context.Context, do func(tx Tx) error) error
	// Ping checks that the store answers.
	Ping(ctx context.Context) error
	// Close waits for transactions that run.
	Close() error
}

// Reader is what can be asked of a store, inside a transaction and outside. A thing that is not there is NotFound;
// lists are ordered by ID unless said otherwise.
type Reader interface {
	Runner(ctx context.Context, id string) (Runner, error)
	Runners(ctx context.Context, q RunnerQuery) ([]Runner, error)
	Job(ctx context.Context, id int64) (Job, error)
	Jobs(ctx context.Context, q JobQuery) ([]Job, error)
	Events(ctx context.Context, q EventQuery) ([]Event, error)
	Hosts(ctx context.Context) ([]Host, error)                        // by name
	Projects(ctx context.Context, since time.Time) ([]Project, error) // seen at or after since, latest first
}

// Tx is a transaction: everything that a Reader can do, and the writes.
type Tx interface {
	Reader
	// CreateRunner adds a runner; Conflict if its ID is taken, or its address by another live runner of its host: here, or from
	// Update.
	CreateRunner(ctx context.Context, r Runner) error
	// SaveRunner writes a runner that was read before. Conflict if it was saved by somebody else since (Version), if
	// its state would fall, if a written outcome would change, or if its address is another live runner's on its host.
	// It raises r.Version.
	SaveRunner(ctx context.Context, r *Runner) error
	// SaveJob merges a sight of a job into the one that is known (Job.Merge) and returns the result.
	SaveJob(ctx context.Context, seen Job) (Job, error)
	// SaveProject adds a project or raises its SeenAt.
	SaveProject(ctx context.Context, p Project) error
	// SaveHost adds or replaces a host.
	SaveHost(ctx context.Context, h Host) error
	// RemoveHost removes a host; Conflict while a live runner is on it, NotFound where there is none.
	RemoveHost(ctx context.Context, name string) error
	// AddEvent appends to the log.
	AddEvent(ctx context.Context, e Event) error
	// TakeDelivery writes down the key of a webhook delivery; fresh = false if it was there already.
	TakeDelivery(ctx context.Context, key string, at time.Time) (fresh bool, err error)
	// Enqueue adds a step that is due when, and only if, the transaction commits.
	Enqueue(ctx context.Context, s Step) error
}

// RunnerQuery selects runners; zero fields select all.
type RunnerQuery struct {
	Live     bool      // only those that are not Gone
	Demand   *Demand   // only those for this demand
	States   []State   // only those in one of these
	GitLabID int64     // only the one with this id in GitLab
	JobID    int64     // only those that took this job
	Overdue  time.Time // only live ones whose Deadline is before this
	Outcome  Outcome   // only those that ended so
	Since    time.Time // only those created at or after this
	Limit    int       // 0: no limit; the latest first if set
}

// JobQuery selects jobs; zero fields select all.
type JobQuery struct {
	Demand    *Demand
	ProjectID int64
	Statuses  []JobStatus
	OursOnly  bool
	RunnerID  string
	Limit     int // 0: no limit; the latest first if set
}

// EventQuery selects events, in order of their IDs; zero fields select all.
type EventQuery struct {
	After    int64 // only those with a greater ID
	RunnerID string
	JobID    int64
	Kinds    []EventKind
	Limit    int // 0: no limit
}
