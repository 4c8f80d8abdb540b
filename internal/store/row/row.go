// Package row is what the tables of every store hold, and how it becomes the types of the root package. SQLite and
// PostgreSQL have the same tables and columns, in the same order: each engine's generated rows are converted to these, and
// the compiler says when one of them differs.
//
// Times are whole microseconds since 1970, UTC; 0 is the zero time. Truth is 1, everything else 0. Lists are JSON.
package row

// Event is a row of events.
type Event struct {
	ID        int64
	At        int64
	Kind      string
	RunnerID  string
	JobID     int64
	ProjectID int64
	FromState int64
	ToState   int64
	Took      int64
	Actor     string
	Reason    string
	Message   string
}

// Host is a row of hosts.
type Host struct {
	Name         string
	Driver       string
	VCPUs        int64
	MemoryMiB    int64
	Slots        int64
	Draining     int64
	Labels       string
	AddressFirst string
	AddressLast  string
	AddressBits  int64
	Gateway      string
	DNS          string
	SeenAt       int64
	Trouble      string
	Lost         int64
	Controller   string
}

// Controller is a row of controllers.
type Controller struct {
	Name        string
	Driver      string
	Machine     string
	Version     string
	Endpoint    string
	Fingerprint string
	StartedAt   int64
}

// Job is a row of jobs.
type Job struct {
	ID          int64
	ProjectID   int64
	ProjectPath string
	PipelineID  int64
	Name        string
	Stage       string
	Ref         string
	Status      string
	Rank        int64
	Failure     string
	Tags        string
	GitLabID    int64
	RunnerID    string
	Ours        int64
	Profile     string
	VCPUs       int64
	MemoryMiB   int64
	DiskMiB     int64
	Refused     string
	Message     string
	CreatedAt   int64
	QueuedAt    int64
	StartedAt   int64
	FinishedAt  int64
	SeenAt      int64
}

// Project is a row of projects.
type Project struct {
	ID     int64
	Path   string
	SeenAt int64
}

// Runner is a row of runners.
type Runner struct {
	ID         string
	ProjectID  int64
	Tags       string
	Profile    string
	VCPUs      int64
	MemoryMiB  int64
	DiskMiB    int64
	Image      string
	State      int64
	Desired    string
	Outcome    string
	Reason     string
	Message    string
	Host       string
	GitLabID   int64
	JobID      int64
	Report     int64
	Version    int64
	CreatedAt  int64
	MovedAt    int64
	Deadline   int64
	Address    string
	JobKey     string
	Controller string
}

// VM is a row of vms: the ledger of microVMs.
type VM struct {
	ID        string
	Driver    string
	Host      string
	Ref       string
	Token     []byte
	Session   []byte
	UsedAt    int64
	Number    int64
	Seq       int64
	Exited    int64
	Bytes     int64
	Dropped   int64
	CreatedAt int64
	Deadline  int64
}

// VMReport is a row of vm_reports.
type VMReport struct {
	VMID     string
	Seq      int64
	At       int64
	Kind     string
	JobID    int64
	Success  int64
	Failure  string
	ExitCode int64
	Message  string
	JobKey   string
}
