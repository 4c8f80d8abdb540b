// Package archive moves a whole site between databases of either engine, through one file: every row of every table, and
// the steps that are not done.
//
// The file is text, a JSON value on each line: a Header; for each table a line that names it and its columns, and a line for
// each row; a Footer with the number of rows and the SHA-256 of everything before. Bytes are {"b64": "..."}. Steps are
// carried as what they do, not as the queue's rows, because the queue's tables differ by engine and belong to it.
//
// What is written is what one transaction sees, and what is read is written in one transaction: the file is whole or is
// refused, and so is the import.
package archive

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
)

// Format and Version are what a Header says. A file of another version is refused.
const (
	Format  = "firerunner-export"
	Version = 1
)

// Header is the first line.
type Header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Schema  int64     `json:"schema"` // version of the tables; the same number means the same columns on each engine
	Engine  string    `json:"engine"` // where it comes from: for people
	By      string    `json:"by"`     // the program's version: for people
	At      time.Time `json:"at"`
}

// tableLine begins a table.
type tableLine struct {
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
}

// Footer is the last line.
type Footer struct {
	End    bool             `json:"end"`
	Rows   map[string]int64 `json:"rows"` // by table; "steps" are the steps
	SHA256 string           `json:"sha256"`
}

// table is one table, and the order in which its rows are written: the same site gives the same file.
type table struct {
	name, order string
}

// steps is the name under which steps stand in the file. There is no such table.
const steps = "steps"

// Who is to begin a step is not among them: any controller may, and passes on what is another's.
var stepColumns = []string{"kind", "project_id", "job_id", "tags", "runner_id", "not_before"}

// tables returns every table of a store but leases and controllers, which are of processes that have ended when a site
// moves. TestTables compares them with what is in a database.
func tables() []table {
	return []table{
		{"site", "key"},
		{"projects", "id"},
		{"hosts", "name"},
		{"jobs", "id"},
		{"runners", "id"},
		{"events", "id"},
		{"deliveries", "key"},
		{"vms", "id"},
		{"vm_reports", "vm_id, seq"},
	}
}

// Site is a database within one transaction.
type Site interface {
	// Engine is its name: sqlite or postgres.
	Engine() string
	// Query calls each for every row; columns says their names once, before. Values are int64, string or []byte.
	Query(ctx context.Context, statement string, columns func([]string) error, each func(values []any) error) error
	// Exec runs a statement with parameters.
	Exec(ctx context.Context, statement string, args ...any) error
	// Parameter is how the n-th parameter is written, from 1.
	Parameter(n int) string
	// Steps calls each with every step that is not done.
	Steps(ctx context.Context, each func(firerunner.Step) error) error
	// Enqueue adds a step.
	Enqueue(ctx context.Context, step firerunner.Step) error
	// Filled is called after rows were written, for what counts on from them.
	Filled(ctx context.Context) error
}

// number asks for one number.
func number(ctx context.Context, s Site, statement string) (n int64, err error) {
	err = s.Query(ctx, statement, func([]string) error { return nil }, func(values []any) error {
		if len(values) == 1 {
			n, _ = values[0].(int64)
		}
		return nil
	})
	return n, err
}

// Schema is the version of the tables.
func Schema(ctx context.Context, s Site) (int64, error) {
	return number(ctx, s, `SELECT max(version_id) FROM goose_db_version`)
}

// Count counts the rows of every table, and the steps.
func Count(ctx context.Context, s Site) (map[string]int64, error) {
	rows := map[string]int64{steps: 0}
	for _, t := range tables() {
		n, err := number(ctx, s, `SELECT count(*) FROM `+t.name)
		if err != nil {
			return nil, err
		}
		rows[t.name] = n
	}
	err := s.Steps(ctx, func(firerunner.Step) error { rows[steps]++; return nil })
	return rows, err
}
