package sqlite_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

func TestLeases(t *testing.T) {
	t.Parallel()
	storetest.ExerciseLeases(t, func(t *testing.T) storetest.Leasing { return open(t, sqlite.Config{}) })
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	storetest.ExerciseRegistry(t, func(t *testing.T) firerunner.Registry { return open(t, sqlite.Config{}) })
}

var inserts = regexp.MustCompile(`(?s)INSERT INTO (\w+) \(([^)]*)\)`)

// TestCompatible: the statements of the version before work on the tables of this one, and their rows want for nothing: so
// an upgrade can be taken back.
func TestCompatible(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Config{}).DB()
	text, err := os.ReadFile("testdata/before.sql")
	require.NoError(t, err)
	statements := strings.Split(string(text), ";\n")
	require.Greater(t, len(statements), 25)
	for _, s := range statements[:len(statements)-1] {
		prepared, err := db.PrepareContext(t.Context(), s)
		require.NoError(t, err, s)
		require.NoError(t, prepared.Close())
	}
	for _, m := range inserts.FindAllStringSubmatch(string(text), -1) {
		given := strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune(", \n", r) })
		rows, err := db.QueryContext(t.Context(), `SELECT name FROM pragma_table_info(?) WHERE "notnull" = 1 AND dflt_value IS NULL`, m[1])
		require.NoError(t, err)
		for rows.Next() {
			var column string
			require.NoError(t, rows.Scan(&column))
			if m[1] == "events" && column == "id" { // numbered by itself
				continue
			}
			require.True(t, slices.Contains(given, column), "%s.%s has no default for the version before", m[1], column)
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
	}
}
