package config

import (
	"net/url"
	"path/filepath"
	"strings"

	"github.com/firerunner/firerunner"
)

const (
	schemeSQLite   = "sqlite://"
	schemePostgres = "postgres://"
	databaseHint   = "sqlite:///absolute/path, postgres://user@host:5432/name, or leave it out"
)

// SQLitePath is the file of the SQLite database; empty: the database is PostgreSQL.
func (c *Config) SQLitePath() string {
	path, _ := strings.CutPrefix(c.Database, schemeSQLite)
	if isPostgres(c.Database) {
		return ""
	}
	return path
}

// PostgresURL is the way to the PostgreSQL database, with its password; empty: the database is SQLite.
func (c *Config) PostgresURL() firerunner.Secret {
	if !isPostgres(c.Database) {
		return ""
	}
	u, err := url.Parse(c.Database)
	if err != nil || c.DatabasePassword == "" {
		return firerunner.Secret(c.Database)
	}
	u.User = url.UserPassword(u.User.Username(), c.DatabasePassword.Reveal())
	return firerunner.Secret(u.String())
}

func isPostgres(database string) bool {
	return strings.HasPrefix(database, schemePostgres) || strings.HasPrefix(database, "postgresql://")
}

// hidesPassword reports whether a database's URL may hold a password. One that cannot be read counts: nobody knows.
func hidesPassword(database string) bool {
	if !isPostgres(database) {
		return false
	}
	u, err := url.Parse(database)
	if err != nil {
		return true
	}
	_, has := u.User.Password()
	return has || u.Query().Has("password")
}

// database reads the file that holds the URL, if there is one, and takes the password out of the URL, so that the rest can
// be shown.
func (l *loader) database() {
	c := &l.config
	if c.DatabaseFile != "" {
		switch text, err := ReadSecret(c.DatabaseFile); {
		case c.Database != "":
			l.add(c.at("database_file", "database and database_file are both given").withHint("remove one of them"))
		case err != nil:
			l.add(c.at("database_file", "%v", err).withHint("%s", firerunner.HintOf(err)))
		default:
			c.Database = text.Reveal()
			c.origins["database"] = c.origins["database_file"]
		}
	}
	if !isPostgres(c.Database) {
		return
	}
	u, err := url.Parse(c.Database)
	if err != nil {
		l.add(c.at("database", "is not a URL").withHint("%s", databaseHint))
		c.Database = schemePostgres // whatever it was, there may be a password in it
		return
	}
	q := u.Query()
	password, has := u.User.Password()
	if q.Has("password") {
		password, has = q.Get("password"), true
		q.Del("password")
		u.RawQuery = q.Encode()
	}
	if !has {
		return
	}
	if c.DatabasePassword != "" {
		l.add(c.at("database", "a password is in it, and database_password is given too").withHint("remove one of them"))
	}
	c.DatabasePassword = firerunner.Secret(password)
	u.User = url.User(u.User.Username())
	c.Database = u.String()
}

// database checks the URL. No part of a URL that may hold a password is repeated.
func (k *checker) database() {
	path, sqlite := strings.CutPrefix(k.Database, schemeSQLite)
	switch {
	case k.Database == "": // Complete was not called
	case isPostgres(k.Database):
		k.postgres()
	case !sqlite || !filepath.IsAbs(path) || strings.ContainsAny(path, "?#"):
		shown := k.Database
		if _, rest, ok := strings.Cut(shown, "@"); ok {
			shown = "...@" + rest
		}
		k.problem("database", "%q is not a database", short(shown)).Hint = databaseHint
	case k.DatabasePassword != "":
		k.problem("database_password", "is given, but the database is a file")
	}
}

func (k *checker) postgres() {
	u, err := url.Parse(k.Database)
	if err != nil || u.Host == "" && u.Query().Get("host") == "" {
		k.problem("database", "names no server").Hint = databaseHint
		return
	}
	if strings.Trim(u.Path, "/") == "" {
		k.problem("database", "names no database").Hint = databaseHint
	}
	if u.User.Username() == "" {
		k.problem("database", "names no user").Hint = databaseHint
	}
}
