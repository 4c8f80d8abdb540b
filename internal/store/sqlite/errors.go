package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/firerunner/firerunner"
)

// invariant begins the message of each trigger that guards an invariant (migrations/00001_init.sql).
const invariant = "conflict: "

// wrap says what we were doing and gives the error its code. An error that has one already keeps it.
func wrap(err error, doing string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(doing, args...)
	code, hint := classify(err)
	e := firerunner.Errorf(code, "%s: %w", what, err)
	if hint != "" {
		e.Hint = hint
	}
	return e
}

func classify(err error) (code firerunner.Code, hint string) {
	var coded *firerunner.Error
	var native *sqlite.Error
	switch {
	case errors.As(err, &coded):
		return coded.Code, coded.Hint
	case errors.Is(err, sql.ErrNoRows):
		return firerunner.NotFound, ""
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, sql.ErrConnDone):
		return firerunner.Unavailable, ""
	case errors.As(err, &native):
		return classifyNative(native)
	}
	return firerunner.Internal, ""
}

// classifyNative reads SQLite's result code (https://sqlite.org/rescode.html); the low byte is the primary code.
func classifyNative(err *sqlite.Error) (code firerunner.Code, hint string) {
	switch err.Code() {
	case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_ROWID:
		return firerunner.Conflict, ""
	case sqlite3.SQLITE_CONSTRAINT_TRIGGER:
		if strings.Contains(err.Error(), invariant) {
			return firerunner.Conflict, ""
		}
		return firerunner.Internal, ""
	}
	switch err.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT:
		return firerunner.Unavailable, "another process is writing to the database"
	case sqlite3.SQLITE_FULL:
		return firerunner.Exhausted, "the disk of the data folder is full: make room"
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
		return firerunner.Unavailable, "look at the disk and the permissions of the data folder"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return firerunner.Internal, "the database file is damaged: restore a copy of it"
	}
	return firerunner.Internal, ""
}
