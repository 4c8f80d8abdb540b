package postgres

import (
	"github.com/jackc/pgx/v5"

	"github.com/firerunner/firerunner"
)

// memory is the rows as this process had them when it last had the lock of writers: what its Updates read and wrote. They are
// still so if the database has counted no save since but our own (row_saves, migration 7). Who has the baton uses it, and
// nobody else.
//
// A crash loses it. Whatever goes wrong in a transaction makes it forget all.
type memory struct {
	runners map[string]firerunner.Runner
	jobs    map[int64]firerunner.Job
	ended   known     // rows among them that nobody asks for any more, to be forgotten with the next transaction
	saves   int64     // what the database says if nobody else has saved; 0: not known
	conn    *pgx.Conn // on which that is so: another may lead to a server that has lost something
	whole   bool      // all that this transaction has written is in here
}

// memoryMost is how many rows are remembered of a kind: about 10 MB of runners that wait or live. With more, it begins anew.
const memoryMost = 20_000

// begin is the first thing in a transaction. saves is the database's count.
func (m *memory) begin(conn *pgx.Conn, saves int64) {
	if saves != m.saves || conn != m.conn || len(m.runners) > memoryMost || len(m.jobs) > memoryMost {
		m.forget()
	}
	for id := range m.ended.runners {
		delete(m.runners, id)
	}
	for id := range m.ended.jobs {
		delete(m.jobs, id)
	}
	m.ended, m.conn, m.saves, m.whole = known{}, conn, saves, true
}

func (m *memory) forget() { *m = memory{} }

// saved counts what the transaction has saved, also if it is undone later.
func (m *memory) saved(n int64) { m.saves += n }

// keep takes up what a member knew at its end.
func (m *memory) keep(k known) {
	if m.runners == nil {
		m.runners, m.jobs = map[string]firerunner.Runner{}, map[int64]firerunner.Job{}
	}
	for id, r := range k.runners {
		m.runners[id] = r
		if !r.Live() {
			m.ended.keep(r)
		}
	}
	for id, j := range k.jobs {
		m.jobs[id] = j
		if j.Status.Final() {
			m.ended.keepJob(j)
		}
	}
}
