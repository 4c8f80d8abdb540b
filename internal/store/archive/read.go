package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"regexp"

	"github.com/firerunner/firerunner"
)

// lineMost is far beyond any row; a file with a longer line is none of ours.
const lineMost = 16 << 20

// columnName is what a column may be called: names from a file go into statements.
var columnName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// reader reads lines and sums them up.
type reader struct {
	in     *bufio.Reader
	sum    hash.Hash
	number int
}

func broken(format string, args ...any) error {
	e := firerunner.Errorf(firerunner.Invalid, "the export is broken: "+format, args...)
	return e.WithHint("export again; nothing was imported")
}

// next returns a line without its end. before is the sum of all lines before it.
func (r *reader) next() (text []byte, before []byte, err error) {
	r.number++
	before = r.sum.Sum(nil)
	for {
		part, err := r.in.ReadSlice('\n')
		text = append(text, part...)
		switch {
		case err == nil:
			r.sum.Write(text)
			return bytes.TrimSuffix(text, []byte("\n")), before, nil
		case len(text) > lineMost:
			return nil, nil, broken("line %d is too long", r.number)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, nil, broken("it ends in line %d, before its end", r.number)
		default:
			return nil, nil, firerunner.Errorf(firerunner.Unavailable, "read the export: %w", err)
		}
	}
}

func strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// Handle is what Read calls.
type Handle struct {
	Table func(table string, columns []string) error
	Row   func(table string, values []any) error
}

// Read reads a whole file, from its first byte to its last. What it hands on before it has returned is not known to be whole:
// Check first, or be ready to undo. It fails with Invalid where the file is none, is broken, or is of another version.
func Read(in io.Reader, handle Handle) (header Header, footer Footer, err error) {
	r := &reader{in: bufio.NewReaderSize(in, 64<<10), sum: sha256.New()}
	text, _, err := r.next()
	if err != nil {
		return header, footer, err
	}
	if err := json.Unmarshal(text, &header); err != nil || header.Format != Format {
		return header, footer, firerunner.Errorf(firerunner.Invalid, "this is not an export of FireRunner").WithHint(`"firerunner db export FILE" makes one`)
	}
	if header.Version != Version {
		return header, footer, firerunner.Errorf(firerunner.Invalid, "the export has format version %d, this program reads version %d", header.Version, Version).
			WithHint("import it with the FireRunner that made it, or a newer one")
	}
	known := map[string]bool{steps: true}
	for _, t := range tables() {
		known[t.name] = true
	}
	rows := map[string]int64{}
	var table tableLine
	for {
		text, before, err := r.next()
		if err != nil {
			return header, footer, err
		}
		switch {
		case bytes.HasPrefix(text, []byte("[")):
			if table.Table == "" {
				return header, footer, broken("line %d is a row of no table", r.number)
			}
			values, err := rowOf(text, len(table.Columns))
			if err != nil {
				return header, footer, broken("line %d: %v", r.number, err)
			}
			rows[table.Table]++
			if err := handle.Row(table.Table, values); err != nil {
				return header, footer, err
			}
		case bytes.HasPrefix(text, []byte(`{"table":`)):
			table = tableLine{}
			if err := strict(text, &table); err != nil {
				return header, footer, broken("line %d: %v", r.number, err)
			}
			if _, twice := rows[table.Table]; twice || !known[table.Table] {
				return header, footer, broken("line %d: table %.40q has no place here", r.number, table.Table)
			}
			for _, c := range table.Columns {
				if !columnName.MatchString(c) {
					return header, footer, broken("line %d: column %.40q", r.number, c)
				}
			}
			rows[table.Table] = 0
			if err := handle.Table(table.Table, table.Columns); err != nil {
				return header, footer, err
			}
		default:
			if err := strict(text, &footer); err != nil || !footer.End {
				return header, footer, broken("line %d is nothing that is known", r.number)
			}
			return header, footer, r.end(footer, rows, before)
		}
	}
}

// end checks that the file is whole.
func (r *reader) end(footer Footer, rows map[string]int64, sum []byte) error {
	if footer.SHA256 != hex.EncodeToString(sum) {
		return broken("its checksum is wrong")
	}
	if _, err := r.in.ReadByte(); !errors.Is(err, io.EOF) {
		return broken("something stands behind its end")
	}
	if len(footer.Rows) != len(rows) {
		return broken("%d tables are there, %d were written", len(rows), len(footer.Rows))
	}
	for name, n := range footer.Rows {
		if rows[name] != n {
			return broken("%d rows of %.40s are there, %d were written", rows[name], name, n)
		}
	}
	return nil
}

// rowOf reads the values of a row.
func rowOf(text []byte, columns int) ([]any, error) {
	var raw []any
	if err := strict(text, &raw); err != nil {
		return nil, err
	}
	if len(raw) != columns {
		return nil, errors.New("a row has another number of values than its table has columns")
	}
	for i, v := range raw {
		switch v := v.(type) {
		case string:
		case json.Number:
			n, err := v.Int64()
			if err != nil {
				return nil, errors.New("a number is not whole")
			}
			raw[i] = n
		case map[string]any:
			encoded, _ := v["b64"].(string)
			var b bytesValue
			quoted, err := json.Marshal(encoded)
			if err == nil {
				err = json.Unmarshal(quoted, &b.Base64)
			}
			if err != nil || len(v) != 1 {
				return nil, errors.New("a value is not known")
			}
			raw[i] = b.Base64
		default:
			return nil, errors.New("a value is not known")
		}
	}
	return raw, nil
}

// Check reads a whole file and says what it holds.
func Check(in io.Reader) (Header, Footer, error) {
	return Read(in, Handle{Table: func(string, []string) error { return nil }, Row: func(string, []any) error { return nil }})
}
