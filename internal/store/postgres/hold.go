package postgres

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/firerunner/firerunner"
)

// lockOfService is held by those who use the database: shared by controllers, which know of each other by their leases, and
// alone by who must have it for himself, such as one who imports a site. Programs before leases held it alone too.
const lockOfService = 7379526764671529

// holdEvery is how often Held looks whether its session still lives; holdTimeout is how long one look may take.
const (
	holdEvery   = 2 * time.Second
	holdTimeout = 5 * time.Second
)

// Held is the right to use a database, alone or with others that share it. It belongs to a session: the server takes it back when the process dies, when
// its machine falls silent (everySession), and when the server itself ends.
type Held struct {
	config Config
	shared bool
	end    context.CancelFunc
	ended  sync.WaitGroup
	lost   chan error
}

// Hold makes this process the only one that uses the database, until Release or its end. It fails with Conflict, naming the
// session that has it, if there is another. Of config only URL, Name and Logger count. Only its beginning is bounded by ctx.
func Hold(ctx context.Context, config Config) (*Held, error) { return hold(ctx, config, false) }

// Share is Hold for who shares the database with others that do.
func Share(ctx context.Context, config Config) (*Held, error) { return hold(ctx, config, true) }

func hold(ctx context.Context, config Config, shared bool) (*Held, error) {
	config = config.withDefaults()
	conn, err := takeService(ctx, config, shared)
	if err != nil {
		return nil, err
	}
	own, end := context.WithCancel(context.WithoutCancel(ctx))
	h := &Held{config: config, shared: shared, end: end, lost: make(chan error, 1)}
	h.ended.Go(func() { h.keep(own, conn) })
	return h, nil
}

// Lost gives an error once another process has taken over, which it can when the session ended by the server's or the
// network's fault. While the database is away nobody can, and nothing is lost.
func (h *Held) Lost() <-chan error { return h.lost }

// Release gives the right up.
func (h *Held) Release() {
	h.end()
	h.ended.Wait()
}

// keep looks after the session, and takes the right again where the session has ended.
func (h *Held) keep(ctx context.Context, conn *pgx.Conn) {
	tick := time.NewTicker(holdEvery)
	defer tick.Stop()
	defer func() {
		if conn != nil {
			closeConn(conn)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		look, cancel := context.WithTimeout(ctx, holdTimeout)
		if conn != nil && conn.Ping(look) != nil && ctx.Err() == nil {
			closeConn(conn)
			conn = nil
		}
		if conn == nil {
			again, err := takeService(look, h.config, h.shared)
			switch {
			case err == nil:
				conn = again
				h.config.Logger.WarnContext(ctx, "the session that holds the database was lost and is back")
			case firerunner.CodeOf(err) == firerunner.Conflict:
				cancel()
				h.lost <- err
				return
			}
		}
		cancel()
	}
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// takeService returns the session that has the right.
func takeService(ctx context.Context, config Config, shared bool) (_ *pgx.Conn, err error) {
	conn, err := connect(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeConn(conn)
		}
	}()
	var took bool
	lock := "select pg_try_advisory_lock($1)"
	if shared {
		lock = "select pg_try_advisory_lock_shared($1)"
	}
	if err := conn.QueryRow(ctx, lock, int64(lockOfService)).Scan(&took); err != nil {
		return nil, wrap(err, "hold the database")
	}
	if took {
		return conn, nil
	}
	return nil, firerunner.Errorf(firerunner.Conflict, "another firerunner, %s, serves %s", holder(ctx, conn, config.Logger), Place(config.URL)).
		WithHint("stop it first, or give this one another database")
}

// holder says which session has the right.
func holder(ctx context.Context, conn *pgx.Conn, logger *slog.Logger) string {
	var who string
	err := conn.QueryRow(ctx, `select a.application_name || ' at ' || coalesce(host(a.client_addr), 'this machine') || ', session ' || a.pid
		from pg_locks l join pg_stat_activity a using (pid)
		where l.locktype = 'advisory' and l.granted and l.database = (select oid from pg_database where datname = current_database())
		  and l.objsubid = 1 and (l.classid::bigint << 32) + l.objid::bigint = $1`, int64(lockOfService)).Scan(&who)
	if err != nil {
		logger.DebugContext(ctx, "could not ask who holds the database", slog.Any("error", err))
		return "of an unknown session"
	}
	return who
}
