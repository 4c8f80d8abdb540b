package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Options of a server.
type Options struct {
	// Durable has every commit wait for the disk, as in earnest: for benchmarks.
	Durable bool
}

// User and Password are those of the server's one user. Over its socket nobody asks for the password, on loopback it does.
const (
	User     = "firerunner"
	Password = "correct horse"
)

// Server is a PostgreSQL that runs.
type Server struct {
	dir    string
	port   int
	keeper *exec.Cmd
	alive  *os.File // what the keeper reads: it ends with this process
}

// Start starts a server that is the test's own, for tests that break it; it ends with the test.
func Start(t testing.TB, options Options) *Server {
	t.Helper()
	s, err := start(options)
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

// Run starts a server for a program that is no test: it ends with Stop, and with the process.
func Run(options Options) (*Server, error) { return start(options) }

// URL is the way to a database over the server's socket, which asks for no password.
func (s *Server) URL(database string) string {
	q := url.Values{"host": {s.dir}, "port": {strconv.Itoa(s.port)}}
	return (&url.URL{Scheme: "postgres", User: url.User(User), Path: "/" + database, RawQuery: q.Encode()}).String()
}

// Loopback is the way to a database over TCP, where the password is asked for; empty: none is given.
func (s *Server) Loopback(database, password string) string {
	u := url.URL{Scheme: "postgres", User: url.User(User), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Path: "/" + database, RawQuery: "sslmode=disable"}
	if password != "" {
		u.User = url.UserPassword(User, password)
	}
	return u.String()
}

// Loopback is the way over TCP to the database that New or Copy returned.
func Loopback(t testing.TB, database, password string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	return ofProcess(t).Loopback(strings.TrimPrefix(u.Path, "/"), password)
}

// Stop ends the server at once, as a power failure would, and removes its files.
func (s *Server) Stop() {
	s.alive.Close()
	_ = s.keeper.Wait()
}

// Restart ends the server at once and starts it again on the same files, and at the same address.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.quit(ctx); err != nil {
		return err
	}
	return s.await(ctx)
}

// away is the file that keeps the server from being started.
const away = "away"

// Pause ends the server at once, until Resume.
func (s *Server) Pause(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(s.dir, away), nil, 0o600); err != nil {
		return err
	}
	return s.quit(ctx)
}

// Resume starts the server again after Pause, on the same files and at the same address.
func (s *Server) Resume(ctx context.Context) error {
	if err := os.Remove(filepath.Join(s.dir, away)); err != nil {
		return err
	}
	return s.await(ctx)
}

// quit ends the server as a power failure would.
func (s *Server) quit(ctx context.Context) error {
	pid, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(pid), "\n")
	n, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	if err := syscall.Kill(n, syscall.SIGQUIT); err != nil {
		return err
	}
	for syscall.Kill(n, 0) == nil { // its last breath must not be taken for the new one's first
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// keeper runs the server until its own standard input ends, which it does when the test process ends in whatever way,
// and removes the files. A server that ends before is started again.
const keeper = `cd "$2"
while :; do
	while [ -e "$2/away" ]; do sleep 0.1; done
	"$1/postgres" -D "$2/data" >>"$2/log" 2>&1 </dev/null &
	server=$!
	echo $server >"$2/server"
	wait $server
	sleep 0.1
done &
loop=$!
cat >/dev/null
kill $loop
wait $loop
read -r server <"$2/server"
kill -QUIT $server
while kill -0 $server; do sleep 0.02; done
cd /
rm -rf "$2"`

func start(options Options) (_ *Server, err error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "firerunner-postgres")
	if err != nil {
		return nil, err
	}
	who, err := owner(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &Server{dir: dir}
	defer func() {
		if err != nil && s.keeper == nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if s.port, err = freePort(); err != nil {
		return nil, err
	}
	if err := s.initialise(bin, who, options); err != nil {
		return nil, err
	}
	end, alive, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	k := exec.Command("/bin/sh", "-c", keeper, "sh", bin, dir)
	k.Stdin = end
	// A group of its own, so that Ctrl-C at the test does not end it before it has cleaned up.
	k.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: who}
	if err := k.Start(); err != nil {
		alive.Close()
		return nil, err
	}
	s.keeper, s.alive = k, alive
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.await(ctx); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		s.Stop()
		return nil, fmt.Errorf("%w\n%s", err, log)
	}
	return s, nil
}

// initialise makes the server's files.
func (s *Server) initialise(bin string, who *syscall.Credential, options Options) error {
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(Password), 0o600); err != nil {
		return err
	}
	if who != nil {
		if err := os.Chown(password, int(who.Uid), int(who.Gid)); err != nil {
			return err
		}
	}
	init := exec.Command(filepath.Join(bin, "initdb"), "--no-sync", "--pgdata="+filepath.Join(s.dir, "data"), "--username="+User,
		"--pwfile="+password, "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C")
	init.Dir = s.dir
	init.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	if said, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, said)
	}
	settings := fmt.Sprintf("unix_socket_directories = '%s'\nlisten_addresses = '127.0.0.1'\nport = %d\nmax_connections = 200\nshared_buffers = 64MB\n", s.dir, s.port)
	if !options.Durable {
		settings += "fsync = off\nfull_page_writes = off\nautovacuum = off\nwal_level = minimal\nmax_wal_senders = 0\n"
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "data", "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(settings)
	return errors.Join(err, f.Close())
}

// await waits until the server answers.
func (s *Server) await(ctx context.Context) error {
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not come up: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// programs finds the newest PostgreSQL as Debian installs it.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", errors.New("there is no PostgreSQL: make test-deps (Debian: apt-get install postgresql-15)")
	}
	newest, version := "", 0
	for _, path := range found {
		bin := filepath.Dir(path)
		if v, err := strconv.Atoi(filepath.Base(filepath.Dir(bin))); err == nil && v > version {
			newest, version = bin, v
		}
	}
	return newest, nil
}

// owner says as whom the server runs, and gives the folder to that user: PostgreSQL refuses to be root.
func owner(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, int(uid), int(gid))
}

// freePort returns a port of loopback that nobody has now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return strconv.Atoi(l.Addr().String()[strings.LastIndexByte(l.Addr().String(), ':')+1:])
}
