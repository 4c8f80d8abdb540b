// Package postgrestest gives tests a real PostgreSQL: one server for each test process, one database for each test.
//
// The server is Debian's package (tools/deps.sh installs it). It listens on a socket in a folder of its own and on
// loopback, and writes nothing durably. It ends with the test process, however that ends, and leaves nothing: see keeper.
// Where there is no PostgreSQL, a test fails; it does not skip.
package postgrestest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// patience is for what must come; it is never waited for when all is well.
const patience = 60 * time.Second

// shared is the server of this test process. It is a variable of the package because the tests of a package share a
// process and nothing else.
var shared struct {
	sync.Mutex
	server    *Server
	err       error
	number    int
	templates map[string]string // the database that each template is, by its name
}

// New returns the URL of a new, empty database on the server of this test process. It is dropped at the end of the test.
func New(t testing.TB) string {
	t.Helper()
	return Copy(t, "", nil)
}

// Copy returns the URL of a new database that is a copy of a template. fill makes the template, once for each name in a
// test process: migrating costs more than copying. It is dropped at the end of the test.
func Copy(t testing.TB, template string, fill func(url string) error) string {
	t.Helper()
	server := ofProcess(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name, err := newDatabase(ctx, server, template, fill)
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("postgrestest: %v", err)
		}
	})
	return server.URL(name)
}

// ofProcess starts the server of this test process, once.
func ofProcess(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.templates = map[string]string{"": "template0"}
		shared.server, shared.err = start(Options{})
	}
	if shared.err != nil {
		t.Fatalf("postgrestest: %v", shared.err)
	}
	return shared.server
}

// newDatabase copies databases one at a time: PostgreSQL refuses to copy one that is being copied.
func newDatabase(ctx context.Context, server *Server, template string, fill func(url string) error) (string, error) {
	shared.Lock()
	defer shared.Unlock()
	shared.number++
	name := fmt.Sprintf("test%d", shared.number)
	from, known := shared.templates[template]
	if !known {
		from = fmt.Sprintf("template_%d", shared.number)
		if err := server.exec(ctx, "CREATE DATABASE "+from+" TEMPLATE template0"); err != nil {
			return "", err
		}
		if err := fill(server.URL(from)); err != nil {
			return "", fmt.Errorf("fill the template %s: %w", template, err)
		}
		shared.templates[template] = from
	}
	return name, server.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+from)
}

// exec runs one statement in the database that every server has.
func (s *Server) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
