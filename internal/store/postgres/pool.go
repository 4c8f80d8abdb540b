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
	idleTimeout = 15 * time.Second
)

// everySession is what each connection asks of the server: to notice within half a minute that we are gone, also when
// nobody tells it. https://www.postgresql.org/docs/15/runtime-config-connection.html
func everySession() map[string]string {
	return map[string]string{
		"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3",
		"client_connection_check_interval":    "5s",
		"idle_in_transaction_session_timeout": millis(idleTimeout),
	}
}

// writerSettings are those of the connection that writes.
func writerSettings() map[string]string {
	return map[string]string{"statement_timeout": millis(statementTimeout)}
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
	maps.Copy(cc.RuntimeParams, everySession())
	if isSocket(cc.Host) {
		for name := range cc.RuntimeParams {
			if strings.HasPrefix(name, "tcp_") {
				delete(cc.RuntimeParams, name)
			}
		}
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
	if c.AfterConnect = durable; settings == nil {
		c.AfterConnect = quick
	}
	maps.Copy(c.ConnConfig.RuntimeParams, settings)
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
	return conn, nil
}
