package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/firerunner/firerunner"
)

// database looks whether it can be reached, and what is in it. It makes no tables.
func (e *examination) database(ctx context.Context) []finding {
	if e.cfg.Database == "" { // what is wrong with the configuration is said already
		return nil
	}
	db := databaseOf(e.cfg, slog.New(slog.DiscardHandler))
	seen, err := db.inspect(ctx)
	if db.path != "" && firerunner.CodeOf(err) == firerunner.NotFound {
		return []finding{{Verdict: good, Found: db.path + `: not there yet; "firerunner serve" makes it`}}
	}
	if err != nil {
		return []finding{failing(err, "correct the key database")}
	}
	what := "SQLite"
	if seen.Server != "" {
		what = "PostgreSQL " + seen.Server
	}
	f := finding{Verdict: good, Found: fmt.Sprintf("%s, %s, tables of version %d", what, seen.Place, seen.Version)}
	switch {
	case seen.standby:
		f.Verdict, f.Found, f.Remedy = fail, f.Found+"; the server is a standby and takes no writes", "name the primary"
	case !seen.owner:
		f.Verdict, f.Found, f.Remedy = fail, f.Found+"; the user may make no tables", "ALTER DATABASE name OWNER TO user, or GRANT CREATE ON SCHEMA public"
	case seen.Version == 0:
		f.Found = fmt.Sprintf(`%s, %s, no tables yet; "firerunner serve" makes them`, what, seen.Place)
	case seen.Version > seen.Newest+1:
		f.Verdict, f.Remedy = fail, fmt.Sprintf("this program knows version %d: run the newer FireRunner", seen.Newest)
	case seen.Version > seen.Newest:
		f.Verdict, f.Remedy = warn, fmt.Sprintf("this program makes version %d: finish the upgrade", seen.Newest)
	case seen.Version < seen.Newest:
		f.Verdict, f.Remedy = warn, `"firerunner serve" or "firerunner db migrate" brings them up to date`
	}
	return []finding{f}
}
