package postgrestest_test

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

const roleVariable = "FIRERUNNER_TEST_ROLE"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ask(t *testing.T, url, question string) (answer string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, conn.QueryRow(t.Context(), question).Scan(&answer))
	return answer
}

func TestCopy(t *testing.T) {
	filled := 0
	fill := func(url string) error {
		filled++
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			return err
		}
		defer conn.Close(t.Context())
		_, err = conn.Exec(t.Context(), "CREATE TABLE words AS SELECT 'hello' AS word")
		return err
	}
	one, two := postgrestest.Copy(t, "words", fill), postgrestest.Copy(t, "words", fill)
	require.NotEqual(t, one, two)
	require.Equal(t, 1, filled)
	require.Equal(t, "hello", ask(t, one, "SELECT word FROM words"))
	require.Equal(t, "0", ask(t, postgrestest.New(t), "SELECT count(*)::text FROM pg_tables WHERE tablename = 'words'"))
	require.Equal(t, "hello", ask(t, postgrestest.Loopback(t, one, postgrestest.Password), "SELECT word FROM words"))
	_, err := pgx.Connect(t.Context(), postgrestest.Loopback(t, one, "wrong"))
	require.ErrorContains(t, err, "password authentication failed")
}

// TestRole is not a test: TestAfterCrash starts it as a process of its own, and kills it.
func TestRole(t *testing.T) {
	if os.Getenv(roleVariable) == "" {
		return
	}
	fmt.Println("up", postgrestest.New(t))
	time.Sleep(time.Minute)
}

// TestAfterCrash: a server outlives no test process, however that ends, and leaves no file.
func TestAfterCrash(t *testing.T) {
	other := exec.Command(os.Args[0], "-test.run=^TestRole$", "-test.v")
	other.Env = append(os.Environ(), roleVariable+"=up")
	out, err := other.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	var address string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "up "); ok {
			address = rest
			break
		}
	}
	require.NoError(t, other.Process.Kill())
	_ = other.Wait()
	u, err := url.Parse(address)
	require.NoError(t, err)
	dir := u.Query().Get("host")
	require.NotEmpty(t, dir)
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	}, 30*time.Second, 20*time.Millisecond)
}

func TestRestart(t *testing.T) {
	server := postgrestest.Start(t, postgrestest.Options{})
	require.Equal(t, "1", ask(t, server.URL("postgres"), "SELECT '1'"))
	require.NoError(t, server.Restart(t.Context()))
	require.Equal(t, "1", ask(t, server.URL("postgres"), "SELECT '1'"))
}
