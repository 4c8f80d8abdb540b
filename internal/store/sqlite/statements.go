package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"

	"modernc.org/sqlite"

	"github.com/firerunner/firerunner"
)

// The connections remember their prepared statements. The same few dozen are run all the time, by us and by the queue,
// and preparing one costs as much as running it: without this, half of the processor time of a webhook went there.

// connector opens connections that remember.
type connector struct{ driver.Connector }

func newConnector(dsn string) (driver.Connector, error) {
	native, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return connector{native}, nil
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	opened, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	native, ok := opened.(nativeConn)
	if !ok {
		return nil, errors.Join(
			firerunner.Errorf(firerunner.Internal, "the SQLite driver's connection %T lacks a method", opened), opened.Close())
	}
	return &conn{nativeConn: native, prepared: map[string]*statement{}}, nil
}

// nativeConn is what the driver's connection can do that database/sql asks for.
type nativeConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// nativeStmt is the same for a statement.
type nativeStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// conn is a connection that remembers. database/sql never uses one connection from two goroutines at once.
type conn struct {
	nativeConn
	prepared map[string]*statement
}

type statement struct {
	nativeStmt
	busy bool // its rows are being read
}

const (
	statementsMost = 128
	statementLong  = 8 << 10 // bytes; longer ones are not remembered
)

// statement returns a prepared statement that is free, or nil where the query must be run as it is: a script, a
// PRAGMA, one that is too long, or one whose rows are being read.
func (c *conn) statement(ctx context.Context, query string) (*statement, error) {
	if s := c.prepared[query]; s != nil {
		if s.busy {
			return nil, nil
		}
		return s, nil
	}
	if len(query) > statementLong || strings.Contains(query, ";") || strings.HasPrefix(query, "PRAGMA") {
		return nil, nil // a PRAGMA takes effect when it is prepared, so it must be prepared each time
	}
	opened, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	native, ok := opened.(nativeStmt)
	if !ok {
		return nil, opened.Close()
	}
	for old, s := range c.prepared { // any one: those in use come back
		if len(c.prepared) < statementsMost {
			break
		}
		if !s.busy {
			c.forget(old, s)
		}
	}
	s := &statement{nativeStmt: native}
	c.prepared[query] = s
	return s, nil
}

// forget drops a statement, after an error too: what state it is in is then the driver's secret.
func (c *conn) forget(query string, s *statement) {
	delete(c.prepared, query)
	_ = s.Close()
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.nativeConn.ExecContext(ctx, query, args)
	}
	res, err := s.ExecContext(ctx, args)
	if err != nil {
		c.forget(query, s)
	}
	return res, err
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.nativeConn.QueryContext(ctx, query, args)
	}
	found, err := s.QueryContext(ctx, args)
	if err != nil {
		c.forget(query, s)
		return nil, err
	}
	s.busy = true
	return &rows{Rows: found, of: s}, nil
}

// Close closes the statements and the connection.
func (c *conn) Close() error {
	for query, s := range c.prepared {
		c.forget(query, s)
	}
	return c.nativeConn.Close()
}

// rows give their statement back when they are closed.
type rows struct {
	driver.Rows
	of *statement
}

// Close implements driver.Rows.
func (r *rows) Close() error {
	err := r.Rows.Close()
	r.of.busy = false
	return err
}
