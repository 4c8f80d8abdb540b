package flintlocktest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Server is a host: the records that flintlockd keeps, the machines that run, and the daemon, which comes and goes.
// All its methods may be called from many goroutines.
type Server struct {
	cfg    Config
	addr   string
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup

	life sync.Mutex // held while the daemon is started or stopped; taken before mu

	mu       sync.Mutex // guards what follows
	changed  chan struct{}
	closed   bool
	daemon   *daemon // nil while it is down
	records  map[string]*record
	running  map[string]*running
	faults   []*activeFault
	calls    []Call
	counters Counters
	lastID   int64
	chance   *rand.Rand
}

var errClosed = errors.New("flintlocktest: server closed")

// Start listens and serves until Close.
func Start(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("starting the flintlockd emulator: Config.Dir is empty")
	}
	cfg = cfg.withDefaults()
	s := &Server{
		cfg: cfg, addr: cfg.Addr, log: cfg.Logger, changed: make(chan struct{}),
		records: map[string]*record{}, running: map[string]*running{},
		chance: rand.New(rand.NewPCG(cfg.Seed, cfg.Seed)),
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err == nil {
		s.cfg.Dir = dir
		err = os.MkdirAll(filepath.Join(dir, "vm"), 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("starting the flintlockd emulator: %w", err)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	if err := s.StartDaemon(); err != nil {
		s.cancel(errClosed)
		return nil, err
	}
	if cfg.TLS != nil {
		s.log.Info("host listens", "address", s.addr, "tls", true)
	} else {
		s.log.Info("host listens", "address", s.addr)
	}
	return s, nil
}

// Addr is where the daemon listens, or did: a restarted one has the same address.
func (s *Server) Addr() string { return s.addr }

// Close ends the daemon, every machine and every call, and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel(errClosed)
	s.StopDaemon()
	s.killAll()
	s.tasks.Wait()
	return nil
}

// PowerOff ends the daemon and all machines at once, as when the host loses power. Records and disks stay: StartDaemon
// is power on, and starts every machine again that nobody has deleted.
func (s *Server) PowerOff() {
	s.StopDaemon()
	s.killAll()
	s.log.Info("host lost power")
}

func (s *Server) killAll() {
	s.mu.Lock()
	all := make([]*running, 0, len(s.running))
	for _, r := range s.running {
		all = append(all, r)
	}
	s.mu.Unlock()
	var killing sync.WaitGroup
	for _, r := range all {
		killing.Go(func() { s.kill(r) })
	}
	killing.Wait()
}

// kill ends a machine. When it returns, nobody takes it for running any more.
func (s *Server) kill(r *running) {
	r.process.Kill()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(r)
}

// Kill ends the machine of a microVM from outside, as when its process crashes. The daemon does not notice. It
// reports whether there was one.
func (s *Server) Kill(uid string) bool {
	s.mu.Lock()
	r := s.running[uid]
	s.mu.Unlock()
	if r == nil {
		return false
	}
	s.kill(r)
	return true
}

// running is a machine that was started and whose end was not seen yet.
type running struct {
	uid     string
	process Process
	size    Capacity
}

// watch keeps a machine in the books until it ends. The caller holds mu.
func (s *Server) watch(uid string, p Process, size Capacity) {
	mine := &running{uid, p, size}
	s.running[uid] = mine
	s.counters.count(s.used())
	s.touch()
	s.tasks.Go(func() {
		<-p.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forget(mine)
	})
}

// forget takes a machine that has ended out of the books. The caller holds mu.
func (s *Server) forget(r *running) {
	if s.running[r.uid] != r {
		return
	}
	delete(s.running, r.uid)
	s.log.Info("machine ended", "uid", r.uid)
	s.touch()
}

// used is what the running machines have. The caller holds mu.
func (s *Server) used() (used Capacity) {
	for _, r := range s.running {
		used.VCPUs += r.size.VCPUs
		used.MemoryMiB += r.size.MemoryMiB
	}
	return used
}

// touch wakes everyone who waits for a change. The caller holds mu.
func (s *Server) touch() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// pause waits for d, less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// trackingListener remembers connections by their other end, so that one can be cut.
type trackingListener struct {
	net.Listener
	mu    sync.Mutex
	conns map[string]net.Conn
}

func (l *trackingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[conn.RemoteAddr().String()] = conn
	return &trackedConn{Conn: conn, forget: func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, conn.RemoteAddr().String())
	}}, nil
}

// cut ends the connection from an address without a word.
func (l *trackingListener) cut(remote string) {
	l.mu.Lock()
	conn := l.conns[remote]
	l.mu.Unlock()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	if conn != nil {
		conn.Close()
	}
}

type trackedConn struct {
	net.Conn
	once   sync.Once
	forget func()
}

func (c *trackedConn) Close() error {
	c.once.Do(c.forget)
	return c.Conn.Close()
}
