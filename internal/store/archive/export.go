package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/firerunner/firerunner"
)

// bytesValue is how bytes stand in the file.
type bytesValue struct {
	Base64 []byte `json:"b64"`
}

// writer writes lines and sums them up.
type writer struct {
	out      *bufio.Writer
	sum      hash.Hash
	rows     map[string]int64
	progress func(table string, rows int64)
}

func (w *writer) line(value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return firerunner.Errorf(firerunner.Internal, "write the export: %w", err)
	}
	text = append(text, '\n')
	w.sum.Write(text)
	if _, err := w.out.Write(text); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "write the export: %w", err)
	}
	return nil
}

func (w *writer) row(table string, values []any) error {
	line := make([]any, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case int64, string:
			line[i] = v
		case []byte:
			line[i] = bytesValue{v}
		default:
			return firerunner.Errorf(firerunner.Internal, "write the export: %s has a value of type %T", table, v)
		}
	}
	w.rows[table]++
	if w.progress != nil {
		w.progress(table, w.rows[table])
	}
	return w.line(line)
}

// Write writes the site to out. progress is called for each row, and may be nil. The header's Schema and Engine are filled
// in.
func Write(ctx context.Context, out io.Writer, s Site, header Header, progress func(table string, rows int64)) (Footer, error) {
	schema, err := Schema(ctx, s)
	if err != nil {
		return Footer{}, err
	}
	header.Format, header.Version, header.Schema, header.Engine = Format, Version, schema, s.Engine()
	w := &writer{out: bufio.NewWriter(out), sum: sha256.New(), rows: map[string]int64{}, progress: progress}
	if err := w.line(header); err != nil {
		return Footer{}, err
	}
	for _, t := range tables() {
		w.rows[t.name] = 0
		err := s.Query(ctx, `SELECT * FROM `+t.name+` ORDER BY `+t.order,
			func(columns []string) error { return w.line(tableLine{t.name, columns}) },
			func(values []any) error { return w.row(t.name, values) })
		if err != nil {
			return Footer{}, err
		}
	}
	w.rows[steps] = 0
	if err := w.line(tableLine{steps, stepColumns}); err != nil {
		return Footer{}, err
	}
	err = s.Steps(ctx, func(step firerunner.Step) error {
		due := int64(0)
		if !step.NotBefore.IsZero() {
			due = step.NotBefore.UnixMicro()
		}
		return w.row(steps, []any{string(step.Kind), step.ProjectID, step.JobID, string(step.Tags), step.RunnerID, due})
	})
	if err != nil {
		return Footer{}, err
	}
	footer := Footer{End: true, Rows: w.rows, SHA256: hex.EncodeToString(w.sum.Sum(nil))}
	if err := w.line(footer); err != nil {
		return Footer{}, err
	}
	if err := w.out.Flush(); err != nil {
		return Footer{}, firerunner.Errorf(firerunner.Unavailable, "write the export: %w", err)
	}
	return footer, nil
}

// WriteFile does the same to a new file, which only this user can read, and which is there when it is whole and on disk. It
// fails with Conflict where there is a file already.
func WriteFile(ctx context.Context, path string, s Site, header Header, progress func(table string, rows int64)) (footer Footer, err error) {
	if _, err := os.Lstat(path); err == nil {
		return Footer{}, firerunner.Errorf(firerunner.Conflict, "export: %s is there already", path).WithHint("name another file, or remove it")
	}
	folder := filepath.Dir(path)
	f, err := os.CreateTemp(folder, ".firerunner-export-*") // mode 0600
	if err != nil {
		return Footer{}, firerunner.Errorf(firerunner.Unavailable, "export: %w", err)
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if footer, err = Write(ctx, f, s, header, progress); err != nil {
		return Footer{}, err
	}
	if err := f.Sync(); err != nil {
		return Footer{}, firerunner.Errorf(firerunner.Unavailable, "export: %w", err)
	}
	// A link fails where a rename would replace what came meanwhile.
	if err := os.Link(f.Name(), path); err != nil {
		return Footer{}, firerunner.Errorf(firerunner.Conflict, "export: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return Footer{}, firerunner.Errorf(firerunner.Unavailable, "export: %w", err)
	}
	d, err := os.Open(folder)
	if err != nil {
		return Footer{}, firerunner.Errorf(firerunner.Unavailable, "export: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return Footer{}, firerunner.Errorf(firerunner.Unavailable, "export: %w", err)
	}
	return footer, nil
}
