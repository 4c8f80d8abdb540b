package sim

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// Memory is a firerunner.Store without a file: what a database does at its best. It passes storetest. What it keeps
// outlives the simulated daemon, as a database would.
type Memory struct {
	// committed is called with what a transaction wrote, before anybody can see it.
	committed func(events []firerunner.Event, steps []firerunner.Step)

	writer chan struct{} // holds one token: whoever has it may write
	mu     sync.RWMutex
	rows   rows
	shared shared
	closed bool
}

// rows is all that is kept, or all that a transaction has changed.
type rows struct {
	runners    map[string]*firerunner.Runner // nobody writes to what is pointed at
	jobs       map[int64]*firerunner.Job
	projects   map[int64]*firerunner.Project
	hosts      map[string]*firerunner.Host
	removed    map[string]bool // hosts
	deliveries map[string]bool
	events     []firerunner.Event
	steps      []firerunner.Step
}

func newRows() rows {
	return rows{
		runners: map[string]*firerunner.Runner{}, jobs: map[int64]*firerunner.Job{}, projects: map[int64]*firerunner.Project{},
		hosts: map[string]*firerunner.Host{}, removed: map[string]bool{}, deliveries: map[string]bool{},
	}
}

// NewMemory returns an empty store. committed may be nil.
func NewMemory(committed func(events []firerunner.Event, steps []firerunner.Step)) *Memory {
	if committed == nil {
		committed = func([]firerunner.Event, []firerunner.Step) {}
	}
	m := &Memory{
		committed: committed, writer: make(chan struct{}, 1), rows: newRows(),
		shared: shared{leases: map[string]firerunner.Lease{}, controllers: map[string]firerunner.Controller{}},
	}
	m.writer <- struct{}{}
	return m
}

var _ firerunner.Store = (*Memory)(nil)

// Update implements firerunner.Store. What do writes lies over the rows and becomes part of them at the end.
func (m *Memory) Update(ctx context.Context, do func(tx firerunner.Tx) error) error {
	if err := context.Cause(ctx); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "update the store: %w", err)
	}
	select {
	case <-m.writer:
	case <-ctx.Done():
		return firerunner.Errorf(firerunner.Unavailable, "wait to update the store: %w", context.Cause(ctx))
	}
	defer func() { m.writer <- struct{}{} }()
	if m.isClosed() {
		return firerunner.Errorf(firerunner.Unavailable, "update the store: it is closed")
	}
	tx := &memoryTx{memoryReader: memoryReader{m: m}}
	written := newRows()
	tx.over = &written
	if err := do(tx); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "update the store: %w", err)
	}
	m.commit(written)
	return nil
}

func (m *Memory) commit(written rows) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.Copy(m.rows.runners, written.runners)
	maps.Copy(m.rows.jobs, written.jobs)
	maps.Copy(m.rows.projects, written.projects)
	maps.Copy(m.rows.deliveries, written.deliveries)
	for name := range written.removed {
		delete(m.rows.hosts, name)
	}
	maps.Copy(m.rows.hosts, written.hosts)
	m.rows.events = append(m.rows.events, written.events...)
	m.committed(written.events, written.steps)
}

// Ping implements firerunner.Store.
func (m *Memory) Ping(context.Context) error {
	if m.isClosed() {
		return firerunner.Errorf(firerunner.Unavailable, "the store is closed")
	}
	return nil
}

// Close implements firerunner.Store.
func (m *Memory) Close() error {
	<-m.writer
	defer func() { m.writer <- struct{}{} }()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *Memory) isClosed() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.closed
}

// Reads outside of a transaction.

func (m *Memory) reader() memoryReader { return memoryReader{m: m} }

// Runner implements firerunner.Reader.
func (m *Memory) Runner(ctx context.Context, id string) (firerunner.Runner, error) {
	return m.reader().Runner(ctx, id)
}

// Runners implements firerunner.Reader.
func (m *Memory) Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	return m.reader().Runners(ctx, q)
}

// Job implements firerunner.Reader.
func (m *Memory) Job(ctx context.Context, id int64) (firerunner.Job, error) {
	return m.reader().Job(ctx, id)
}

// Jobs implements firerunner.Reader.
func (m *Memory) Jobs(ctx context.Context, q firerunner.JobQuery) ([]firerunner.Job, error) {
	return m.reader().Jobs(ctx, q)
}

// Events implements firerunner.Reader.
func (m *Memory) Events(ctx context.Context, q firerunner.EventQuery) ([]firerunner.Event, error) {
	return m.reader().Events(ctx, q)
}

// Hosts implements firerunner.Reader.
func (m *Memory) Hosts(ctx context.Context) ([]firerunner.Host, error) { return m.reader().Hosts(ctx) }

// Projects implements firerunner.Reader.
func (m *Memory) Projects(ctx context.Context, since time.Time) ([]firerunner.Project, error) {
	return m.reader().Projects(ctx, since)
}

// kept is a time as a database keeps it: to the microsecond, of no place, and without a reading of this process's clock.
func kept(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

// text is a text as every database can keep it: no bytes that are no characters, and no zero.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func keptRunner(r firerunner.Runner) firerunner.Runner {
	r.Message = text(r.Message)
	r.CreatedAt, r.MovedAt, r.Deadline = kept(r.CreatedAt), kept(r.MovedAt), kept(r.Deadline)
	return r
}

func keptJob(j firerunner.Job) firerunner.Job {
	j.CreatedAt, j.QueuedAt, j.StartedAt = kept(j.CreatedAt), kept(j.QueuedAt), kept(j.StartedAt)
	j.FinishedAt, j.SeenAt = kept(j.FinishedAt), kept(j.SeenAt)
	j.Name, j.Stage, j.Ref, j.ProjectPath = text(j.Name), text(j.Stage), text(j.Ref), text(j.ProjectPath)
	j.Failure, j.Message = text(j.Failure), text(j.Message)
	return j
}

func keptHost(h firerunner.Host) firerunner.Host {
	h.Labels, h.SeenAt, h.Trouble = slices.Clone(h.Labels), kept(h.SeenAt), text(h.Trouble)
	return h
}
