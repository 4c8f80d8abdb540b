package postgres

import (
	"context"
	"maps"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/firerunner/firerunner"
)

const (
	connectTimeout = 10 * time.Second
	// statementTimeout ends a statement of a writer: all of them take milliseconds, and everybody waits for them.
	statementTimeout = 20 * time.Second
	// idleTimeout ends a transaction whose process has stopped in the middle, so that its lock does not stop all others.
	idleTimeout = 5 * time.Second
)

// everySession is what each connection asks of the server: to notice within half a minute that we are gone, also when
// nobody tells it. https://www.postgresql.org/docs/15/runtime-config-connection.html
func everySession(socket bool) map[string]string {
	settings := map[string]string{"idle_in_transaction_session_timeout": millis(idleTimeout)}
	if !socket {
		settings["tcp_keepalives_idle"], settings["tcp_keepalives_interval"], settings["tcp_keepalives_count"] = "10", "5", "3"
	}
	return settings
}

// writerSettings are those of the connection that writes. A plan is made once: its statements find their few rows by an index,
// whatever is asked for.
func writerSettings() map[string]string {
	return map[string]string{"statement_timeout": millis(statementTimeout), "plan_cache_mode": "force_generic_plan"}
}

// settle makes the settings in a session that is new. They do not go with the start of the session, where a pooler refuses
// what it does not know.
func settle(ctx context.Context, conn *pgx.Conn, settings map[string]string) error {
	var names, values []string
	for name, value := range settings {
		names, values = append(names, name), append(values, value)
	}
	if _, err := conn.Exec(ctx, `select set_config(name, value, false) from unnest($1::text[], $2::text[]) as s (name, value)`, names, values); err != nil {
		return err
	}
	// Not every system's server can look whether its client is there while it works for it.
	_, _ = conn.Exec(ctx, `select set_config('client_connection_check_interval', '5s', false)`)
	return nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// parse reads a URL. Its errors never repeat any of it: there is a password in it.
func parse(raw firerunner.Secret) (*url.URL, error) {
	u, err := url.Parse(raw.Reveal())
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, firerunner.Errorf(firerunner.Invalid, "the database's URL is not one").
			WithHint("postgres://user@host:5432/name?sslmode=verify-full")
	}
	return u, nil
}

// Place is a URL as it may be shown: with the server, the database and the user, without the password and the rest.
func Place(raw firerunner.Secret) string {
	u, err := parse(raw)
	if err != nil {
		return "postgres://?"
	}
	shown := url.URL{Scheme: "postgres", Host: u.Host, Path: u.Path}
	if name := u.User.Username(); name != "" {
		shown.User = url.User(name)
	}
	if host := u.Query().Get("host"); host != "" && u.Host == "" {
		shown.RawQuery = "host=" + host
	}
	return shown.String()
}

// connConfig is how a connection is made.
func connConfig(config Config) (*pgxpool.Config, error) {
	u, err := parse(config.URL)
	if err != nil {
		return nil, err
	}
	c, err := pgxpool.ParseConfig(config.URL.Reveal())
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "the database's URL %s has a setting that is not understood", Place(config.URL)).
			WithHint("see https://www.postgresql.org/docs/15/libpq-connect.html for sslmode, sslrootcert, host and port")
	}
	cc := c.ConnConfig
	if !u.Query().Has("connect_timeout") {
		cc.ConnectTimeout = connectTimeout
	}
	if cc.RuntimeParams["application_name"] == "" {
		cc.RuntimeParams["application_name"] = config.Name
	}
	// A context that ends asks the server to give up, and keeps the connection; only a server that is silent loses it.
	cc.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Second}
	}
	cc.DialFunc = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 10 * time.Second}).DialContext
	return c, nil
}

func isSocket(host string) bool { return strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") }

// openPool opens a pool; settings are a writer's. It connects when it is used.
func openPool(ctx context.Context, config Config, size int32, settings map[string]string) (*pgxpool.Pool, error) {
	c, err := connConfig(config)
	if err != nil {
		return nil, err
	}
	c.MaxConns, c.MinConns = size, 0
	c.MaxConnIdleTime = 5 * time.Minute
	all := everySession(isSocket(c.ConnConfig.Host))
	maps.Copy(all, settings)
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := settle(ctx, conn, all); err != nil {
			return err
		}
		if settings == nil {
			return quick(ctx, conn)
		}
		return durable(ctx, conn)
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, wrap(err, "open %s", Place(config.URL))
	}
	return pool, nil
}

// durable makes a commit that returns one that is on the server's disk, where the server's default is not to wait for it:
// GitLab is told that a webhook is written down. What the server waits for besides, such as a standby, is left alone.
func durable(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'`)
	return err
}

// quick lets commits of connections that do not write the store's rows return before they are on disk: those are the
// queue's, about steps that it begins and that are done. What a power failure takes back of them runs again, as steps may.
func quick(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `set synchronous_commit = off`)
	return err
}

// connect opens one connection outside of any pool: for what belongs to a session, such as a lock.
func connect(ctx context.Context, config Config) (*pgx.Conn, error) {
	c, err := connConfig(config)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, c.ConnConfig)
	if err != nil {
		return nil, wrap(err, "connect to %s", Place(config.URL))
	}
	if err := settle(ctx, conn, everySession(isSocket(c.ConnConfig.Host))); err != nil {
		closeConn(conn)
		return nil, wrap(err, "connect to %s", Place(config.URL))
	}
	return conn, nil
}
