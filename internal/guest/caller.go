package guest

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// reserved is how many of the messages that wait are kept free of notices, for what the host cannot do without.
const reserved = 64

// CallerConfig is what a Caller is made from. The first five fields come from Metadata.
type CallerConfig struct {
	ID          string
	Token       firerunner.Secret // used for the first attach
	Endpoint    string            // host:port
	Fingerprint [sha256.Size]byte
	// Others are called in turn with the first, once that has not answered: at once with a session, which any of them may
	// know, and after OthersAfter without one, because the start is in the memory of the first alone.
	Others []Door

	Hello FromGuest       // Agent and Kernel, as for Dial
	Clock func(time.Time) // called with the host's time whenever that is told after the start; may be nil
	// Dismissed is called once, from the goroutine that reads, when the endpoint has refused the guest for good: this
	// is the second boot of an old disk, or nobody knows the microVM any more. The guest is to turn itself off.
	Dismissed func(firerunner.Code)

	DialContext func(ctx context.Context, network, address string) (net.Conn, error) // default: net.Dialer's
	Jitter      func(time.Duration) time.Duration                                    // default: half to all of it
	Now         func() time.Time                                                     // the guest's clock, as hello tells it; default: time.Now

	AttachTimeout time.Duration // from dialling to the answer, default 15 s
	Heartbeat     time.Duration // a sign of life at least this often, default 15 s
	Silence       time.Duration // of the host, after which the connection is taken for broken, default 3 heartbeats
	OthersAfter   time.Duration // default 15 s
	MinBackoff    time.Duration // before the second call, default 250 ms; doubled each time
	MaxBackoff    time.Duration // default 10 s
}

func (c CallerConfig) withDefaults() CallerConfig {
	if c.DialContext == nil {
		c.DialContext = (&net.Dialer{}).DialContext
	}
	if c.Jitter == nil {
		c.Jitter = func(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
	}
	if c.Dismissed == nil {
		c.Dismissed = func(firerunner.Code) {}
	}
	setDefault(&c.AttachTimeout, 15*time.Second)
	setDefault(&c.Heartbeat, 15*time.Second)
	setDefault(&c.Silence, 3*c.Heartbeat)
	setDefault(&c.OthersAfter, 15*time.Second)
	setDefault(&c.MinBackoff, 250*time.Millisecond)
	setDefault(&c.MaxBackoff, 10*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Hello.Kind = firerunner.ReportHello
	return c
}

// Caller is the guest's end of the channel over a network: what Client is over a device. It calls until it is closed
// or dismissed, keeps what was not acknowledged, and sends it again to the next connection. What it holds is in
// memory only: an agent that dies takes its session along, and its microVM is refused from then on.
type Caller struct {
	cfg    CallerConfig
	cancel context.CancelFunc
	ended  sync.WaitGroup
	starts chan FromHost
	orders chan firerunner.GuestOrder
	wake   chan struct{} // there is something to send

	// only the goroutine that reads uses these
	session          firerunner.Secret
	finished, halted bool // the orders that were passed on

	mu      sync.Mutex
	queue   []numbered // not acknowledged, in order
	console []byte     // not written yet
	last    int64      // number of the newest message
	change  chan struct{}
	err     error           // why the last connection ended
	refused firerunner.Code // for good
}

type numbered struct {
	number int64
	line   []byte
}

// Call starts to call. Close ends it.
func Call(cfg CallerConfig) *Caller {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Caller{
		cfg: cfg.withDefaults(), cancel: cancel, starts: make(chan FromHost, 1), orders: make(chan firerunner.GuestOrder, 2),
		wake: make(chan struct{}, 1), change: make(chan struct{}),
	}
	c.ended.Go(func() { c.run(ctx) })
	return c
}

// Close ends the calling and waits for it.
func (c *Caller) Close() error {
	c.cancel()
	c.ended.Wait()
	return nil
}

// Start waits for the host's start. Errors: Unavailable; the code with which the guest was refused for good.
func (c *Caller) Start(ctx context.Context) (FromHost, error) {
	for {
		c.mu.Lock()
		code, change := c.refused, c.change
		c.mu.Unlock()
		select {
		case m := <-c.starts:
			return m, nil
		default:
		}
		if code != "" {
			return FromHost{}, refusal(code)
		}
		select {
		case m := <-c.starts:
			return m, nil
		case <-change:
		case <-ctx.Done():
			return FromHost{}, firerunner.Errorf(firerunner.Unavailable, "wait for the host's start: %w", c.cause(ctx))
		}
	}
}

func refusal(code firerunner.Code) error {
	return firerunner.Errorf(code, "the guest endpoint refuses this microVM: %s", code)
}

// Orders gives the host's orders, each at most once.
func (c *Caller) Orders() <-chan firerunner.GuestOrder { return c.orders }

// Report queues a message; it never waits. Where too many wait for the host, it is dropped.
func (c *Caller) Report(m FromGuest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := len(c.queue)
	if waiting >= maxUnsent || waiting >= maxUnsent-reserved && m.Kind == firerunner.ReportNotice {
		return
	}
	m.Number = c.last + 1
	line, err := EncodeFromGuest(m)
	if err != nil {
		return // only an absurd hello is too long; there is nobody to tell
	}
	c.last = m.Number
	c.queue = append(c.queue, numbered{m.Number, line})
	c.stir()
}

// Print sends the end of a text for people, at most MaxConsole bytes, before the reports that come after it. It is
// sent once: a connection that breaks then takes it along.
func (c *Caller) Print(text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.console = slices.Clone(text[max(0, len(text)-MaxConsole):])
	c.stir()
}

func (c *Caller) stir() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Flush waits until the host has acknowledged everything.
func (c *Caller) Flush(ctx context.Context) error {
	for {
		c.mu.Lock()
		waiting, code, change := len(c.queue), c.refused, c.change
		c.mu.Unlock()
		switch {
		case waiting == 0:
			return nil
		case code != "":
			return refusal(code)
		}
		select {
		case <-change:
		case <-ctx.Done():
			return firerunner.Errorf(firerunner.Unavailable, "wait for the host to read: %w", c.cause(ctx))
		}
	}
}

// cause is why the last connection failed, or else why the waiting ended.
func (c *Caller) cause(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return ctx.Err()
}

// changed wakes up those who wait. The caller holds the lock.
func (c *Caller) changed() {
	close(c.change)
	c.change = make(chan struct{})
}

// acknowledged forgets what the host has recorded.
func (c *Caller) acknowledged(number int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := 0
	for done < len(c.queue) && c.queue[done].number <= number {
		done++
	}
	if done > 0 {
		c.queue = slices.Delete(c.queue, 0, done)
		c.changed()
	}
}

// next takes what is to be sent after the message with this number; nil for nothing.
func (c *Caller) next(after int64) (line []byte, number int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.console) > 0 {
		line, err := EncodeFromGuest(FromGuest{Kind: GuestConsole, Console: c.console})
		c.console = nil
		if err == nil {
			return line, after
		}
	}
	for _, m := range c.queue {
		if m.number > after {
			return m.line, m.number
		}
	}
	return nil, after
}
