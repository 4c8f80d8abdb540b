package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/firerunner/firerunner"
)

const (
	fileMode = 0o600 // it holds the names of projects and jobs; SQLite gives -wal and -shm the mode of the file
	dirMode  = 0o700
)

// prepareFile makes the file before SQLite does, which would make it readable for all that umask lets in, and takes
// back what too generous a mode gives away.
func prepareFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return fileError(err, "make the folder of %s", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return fileError(err, "open %s", path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fileError(err, "look at %s", path)
	}
	if !info.Mode().IsRegular() {
		return firerunner.Errorf(firerunner.Invalid, "open store: %s is not a regular file", path)
	}
	if info.Mode().Perm()&^fileMode != 0 {
		if err := f.Chmod(fileMode); err != nil {
			return fileError(err, "take other users' access to %s away", path)
		}
	}
	return nil
}

func fileError(err error, format string, args ...any) error {
	e := firerunner.Errorf(firerunner.Unavailable, "open store: %s: %w", fmt.Sprintf(format, args...), err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return e.WithHint("run it as the user who owns the data folder")
	default:
		return e
	}
}

type poolKind int

const (
	poolOfWriter poolKind = iota
	poolOfReaders
)

// openPool opens a pool of connections that live as long as the pool: opening one costs a dozen PRAGMAs.
func openPool(config Config, kind poolKind) (*sql.DB, error) {
	path, err := filepath.Abs(config.Path)
	if err != nil {
		return nil, fileError(err, "find %s", config.Path)
	}
	q := url.Values{}
	q.Set("_busy_timeout", strconv.FormatInt(config.BusyTimeout.Milliseconds(), 10))
	q.Set("_foreign_keys", "on")
	size := readers()
	switch kind {
	case poolOfWriter:
		size = 1
		q.Set("_txlock", "immediate") // a transaction that begins by reading would fail when it comes to write
		q.Set("_journal_mode", "WAL")
		q.Set("_synchronous", "FULL") // a commit is on disk when it returns: docs/adr/0002-sqlite-durability.md
		q.Add("_pragma", "journal_size_limit(67108864)")
		q.Add("_pragma", "cache_size(-1024)") // KiB
	case poolOfReaders:
		q.Set("_query_only", "on")
		q.Add("_pragma", "cache_size(-256)") // KiB for each: the system keeps the file's pages too, and once for all
	}
	connector, err := newConnector("file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode())
	if err != nil {
		return nil, fileError(err, "open %s", config.Path)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db, nil
}
