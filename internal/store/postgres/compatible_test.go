package postgres_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

func TestLeases(t *testing.T) {
	t.Parallel()
	storetest.ExerciseLeases(t, func(t *testing.T) storetest.Leasing { return open(t, postgres.Config{}) })
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	storetest.ExerciseRegistry(t, func(t *testing.T) firerunner.Registry { return open(t, postgres.Config{}) })
}

var inserts = regexp.MustCompile(`(?s)INSERT INTO (\w+) \(([^)]*)\)`)

// TestCompatible: the statements of the version before work on the tables of this one, and their rows want for nothing: so
// programs of both versions can run side by side.
func TestCompatible(t *testing.T) {
	t.Parallel()
	store := open(t, postgres.Config{})
	text, err := os.ReadFile("testdata/before.sql")
	require.NoError(t, err)
	statements := strings.Split(string(text), ";\n")
	require.Greater(t, len(statements), 25)
	conn, err := store.Pool().Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for _, s := range statements[:len(statements)-1] {
		_, err := conn.Conn().Prepare(t.Context(), "", s)
		require.NoError(t, err, s)
	}
	for _, m := range inserts.FindAllStringSubmatch(string(text), -1) {
		rows, err := conn.Query(t.Context(), `select column_name::text from information_schema.columns where table_name = $1 and is_nullable = 'NO'
			and column_default is null and is_identity = 'NO'`, m[1])
		require.NoError(t, err)
		needed, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		given := strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune(", \n", r) })
		for _, column := range needed {
			require.True(t, slices.Contains(given, column), "%s.%s has no default for the version before", m[1], column)
		}
	}
}
