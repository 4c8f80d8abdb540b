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
	runners map[string]firerunner.Runner // live ones
	jobs    map[int64]firerunner.Job     // that have not ended
	saves   int64                        // what the database says if nobody else has saved; 0: not known
	conn    *pgx.Conn                    // on which that is so: another may lead to a server that has lost something
}

// memoryMost is how many rows are remembered of a kind: about 10 MB of runners that wait or live. With more, it begins anew.
const memoryMost = 20_000

// begin is the first thing in a transaction. saves is the database's count.
func (m *memory) begin(conn *pgx.Conn, saves int64) {
	if saves != m.saves || conn != m.conn {
		m.forget()
	}
	m.conn, m.saves = conn, saves
}

func (m *memory) forget() { *m = memory{} }

// saved counts what the transaction has saved, also if it is undone later.
func (m *memory) saved(n int64) { m.saves += n }

// keep takes up what a member knew at its end.
func (m *memory) keep(k known) {
	if m.runners == nil || len(m.runners)+len(k.runners) > memoryMost {
		m.runners = map[string]firerunner.Runner{}
	}
	for id, r := range k.runners {
		if r.Live() {
			m.runners[id] = r
		} else {
			delete(m.runners, id)
		}
	}
	if m.jobs == nil || len(m.jobs)+len(k.jobs) > memoryMost {
		m.jobs = map[int64]firerunner.Job{}
	}
	for id, j := range k.jobs {
		if j.Status.Final() {
			delete(m.jobs, id)
		} else {
			m.jobs[id] = j
		}
	}
}
