package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/firerunner/firerunner"
)

// invariant is the SQLSTATE of each trigger that guards an invariant (migrations).
const invariant = "FR001"

// wrap says what we were doing and gives the error its code. An error that has one already keeps it.
func wrap(err error, doing string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(doing, args...)
	code, hint := classify(err)
	e := firerunner.Errorf(code, "%s: %w", what, err)
	e.Hint = hint
	return e
}

func classify(err error) (code firerunner.Code, hint string) {
	var coded *firerunner.Error
	var native *pgconn.PgError
	switch {
	case errors.As(err, &coded):
		return coded.Code, coded.Hint
	case errors.Is(err, pgx.ErrNoRows):
		return firerunner.NotFound, ""
	case errors.As(err, &native):
		return classifyNative(native.Code)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), connectionLost(err):
		return firerunner.Unavailable, hintAway
	}
	return firerunner.Internal, ""
}

const hintAway = "is the database running, and reachable from here? firerunner doctor"

// classifyNative reads an SQLSTATE (https://www.postgresql.org/docs/15/errcodes-appendix.html); the first two characters
// are its class.
func classifyNative(state string) (code firerunner.Code, hint string) {
	switch state {
	case "23505", invariant:
		return firerunner.Conflict, ""
	case "3D000":
		return firerunner.NotFound, "make the database: createdb --owner=USER NAME"
	case "42501":
		return firerunner.Unauthorized, "the database's user lacks a right: make it the owner of the database"
	case "42P01", "42703":
		return firerunner.Unavailable, "bring the tables up to date: firerunner db migrate"
	case "53100":
		return firerunner.Exhausted, "the disk of the database is full: make room"
	case "53300":
		return firerunner.Exhausted, "the server has no connection left: raise its max_connections"
	case "25006":
		return firerunner.Unavailable, "this server is a standby: name the primary"
	}
	switch state[:min(2, len(state))] {
	case "28":
		return firerunner.Unauthorized, "look at the database's user and password, and at the server's pg_hba.conf"
	case "08", "40", "55", "57":
		return firerunner.Unavailable, hintAway
	case "53", "54":
		return firerunner.Exhausted, ""
	}
	return firerunner.Internal, ""
}

// connectionLost reports whether the error is about the connection and not about what was asked.
func connectionLost(err error) bool {
	var native *pgconn.PgError
	if errors.As(err, &native) { // the server said so itself before it hung up
		return strings.HasPrefix(native.Code, "08") || strings.HasPrefix(native.Code, "57P")
	}
	var network net.Error
	var connecting *pgconn.ConnectError
	return errors.As(err, &network) || errors.As(err, &connecting) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "conn closed") ||
		strings.Contains(err.Error(), "closed pool")
}

// connectionRefused reports whether there is no way to the server just now.
func connectionRefused(err error) bool {
	var connecting *pgconn.ConnectError
	return errors.As(err, &connecting)
}

// repeatable reports whether a transaction that ended with the error left nothing and may succeed when it is tried again,
// because it met others.
func repeatable(err error) bool {
	var native *pgconn.PgError
	return errors.As(err, &native) && (native.Code == "40001" || native.Code == "40P01")
}
