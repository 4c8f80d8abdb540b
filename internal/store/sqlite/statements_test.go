package sqlite_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// TestStatements: more statements than are remembered, one whose rows are being read, one that fails, one whose table
// changes, and a script: all of them work, and again.
func TestStatements(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Config{}).DB()
	ctx := t.Context()
	exec1(t, db, `CREATE TABLE numbers (n INTEGER PRIMARY KEY, CHECK (n < 500)) STRICT`)
	for range 2 {
		for i := range 300 {
			var got int
			require.NoError(t, db.QueryRowContext(ctx, fmt.Sprintf("SELECT %d + ?", i), 1).Scan(&got))
			require.Equal(t, i+1, got)
		}
	}
	const insert = `INSERT INTO numbers (n) VALUES (?)`
	for i := range 10 {
		exec1(t, db, insert, i)
		_, err := db.ExecContext(ctx, insert, i)
		require.Error(t, err)
		_, err = db.ExecContext(ctx, insert, 500)
		require.Error(t, err)
	}
	_, err := db.ExecContext(ctx, `INSERT INTO nowhere VALUES (1)`)
	require.Error(t, err)

	const all = `SELECT * FROM numbers ORDER BY n`
	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	outer, err := tx.QueryContext(ctx, all)
	require.NoError(t, err)
	pairs := 0
	for outer.Next() {
		inner, err := tx.QueryContext(ctx, all) // the remembered one is busy
		require.NoError(t, err)
		for inner.Next() {
			pairs++
		}
		require.NoError(t, inner.Close())
	}
	require.NoError(t, outer.Close())
	require.Equal(t, 100, pairs)
	require.NoError(t, tx.Commit())

	exec1(t, db, `ALTER TABLE numbers ADD COLUMN word TEXT; UPDATE numbers SET word = 'x'`)
	rows, err := db.QueryContext(ctx, all)
	require.NoError(t, err)
	columns, err := rows.Columns()
	require.NoError(t, err)
	require.Equal(t, []string{"n", "word"}, columns)
	require.NoError(t, rows.Close())
	require.Equal(t, 1, db.Stats().OpenConnections)
}
