package archive

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/row"
)

// parametersMost is fewer than each engine takes in one statement (SQLite 32,766, PostgreSQL 65,535).
const parametersMost = 8000

// Load writes the file's rows into an empty site, whose transaction the caller commits if, and only if, there is no error. It
// fails with Conflict where the site is not empty, and Invalid where the file is broken, or newer than the site's tables.
func Load(ctx context.Context, in io.ReadSeeker, s Site, progress func(table string, rows int64)) (Footer, error) {
	header, _, err := Check(in) // before anything is written
	if err != nil {
		return Footer{}, err
	}
	if err := fits(ctx, s, header); err != nil {
		return Footer{}, err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return Footer{}, firerunner.Errorf(firerunner.Unavailable, "read the export: %w", err)
	}
	l := &loader{ctx: ctx, site: s, progress: progress, rows: map[string]int64{}}
	_, footer, err := Read(in, Handle{Table: l.begin, Row: l.row})
	if err == nil {
		err = l.flush()
	}
	if err == nil {
		err = s.Filled(ctx)
	}
	if err != nil {
		return Footer{}, err
	}
	return footer, l.verify(footer)
}

// fits checks the site before the first row.
func fits(ctx context.Context, s Site, header Header) error {
	schema, err := Schema(ctx, s)
	if err != nil {
		return err
	}
	if header.Schema > schema {
		return firerunner.Errorf(firerunner.Invalid, "the export comes from tables of version %d, this program has version %d", header.Schema, schema).
			WithHint("import it with the FireRunner that made it, or a newer one")
	}
	rows, err := Count(ctx, s)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if rows[name] > 0 {
			return firerunner.Errorf(firerunner.Conflict, "the database is not empty: %d rows of %s", rows[name], name).
				WithHint("import into a new database, before the first start of firerunner serve on it")
		}
	}
	return nil
}

// loader writes rows, many with each statement.
type loader struct {
	ctx      context.Context //nolint:containedctx // lives as long as one Load
	site     Site
	progress func(table string, rows int64)
	rows     map[string]int64

	table   string
	columns []string
	args    []any
}

func (l *loader) begin(table string, columns []string) error {
	if err := l.flush(); err != nil {
		return err
	}
	l.table, l.columns = table, columns
	if table == steps && !slices.Equal(columns, stepColumns) {
		return broken("steps have other columns")
	}
	return nil
}

func (l *loader) row(table string, values []any) error {
	l.rows[table]++
	if l.progress != nil {
		l.progress(table, l.rows[table])
	}
	if table == steps {
		return l.step(values)
	}
	for _, v := range values {
		if text, ok := v.(string); ok {
			v = row.Text(text)
		}
		l.args = append(l.args, v)
	}
	if len(l.args)+len(l.columns) > parametersMost {
		return l.flush()
	}
	return nil
}

// flush writes what has gathered.
func (l *loader) flush() error {
	if len(l.args) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("INSERT INTO " + l.table + " (" + strings.Join(l.columns, ", ") + ") VALUES ")
	for i := range l.args {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%len(l.columns) == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		b.WriteString(l.site.Parameter(i + 1))
	}
	b.WriteString(")")
	err := l.site.Exec(l.ctx, b.String(), l.args...)
	l.args = l.args[:0]
	if err != nil {
		return firerunner.Errorf(firerunner.CodeOf(err), "import %s: %w", l.table, err)
	}
	return nil
}

func (l *loader) step(values []any) error {
	var step firerunner.Step
	var due int64
	var tags, kind string
	ok := true
	for i, to := range []any{&kind, &step.ProjectID, &step.JobID, &tags, &step.RunnerID, &due} {
		switch to := to.(type) {
		case *string:
			var is bool
			*to, is = values[i].(string)
			ok = ok && is
		case *int64:
			var is bool
			*to, is = values[i].(int64)
			ok = ok && is
		}
	}
	if !ok {
		return broken("a step is none")
	}
	step.Kind, step.Tags = firerunner.StepKind(kind), firerunner.TagSet(tags)
	if due != 0 {
		step.NotBefore = time.UnixMicro(due).UTC()
	}
	return l.site.Enqueue(l.ctx, step)
}

// verify counts what is there now. Steps may be fewer: the queue does not add one that would do the same.
func (l *loader) verify(footer Footer) error {
	there, err := Count(l.ctx, l.site)
	if err != nil {
		return err
	}
	for name, n := range footer.Rows {
		if there[name] != n && (name != steps || n > 0 && there[name] == 0) {
			return firerunner.Errorf(firerunner.Internal, "import: %d rows of %s were written and %d are there", n, name, there[name])
		}
	}
	return nil
}
