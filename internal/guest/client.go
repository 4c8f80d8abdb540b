package guest

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

const (
	// retryEOF is how long a guest waits before it reads again from a port that has no host at its other end: a
	// virtio-serial port reads as ended until a host connects, and there is nothing to be woken by.
	retryEOF = 20 * time.Millisecond
	// maxUnsent is how many messages wait for a host that does not read.
	maxUnsent = 256
)

// Client is the guest's end of the channel.
type Client struct {
	port   io.ReadWriteCloser
	hello  FromGuest
	starts chan FromHost
	orders chan firerunner.GuestOrder
	clock  func(time.Time)
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu     sync.Mutex
	queue  [][]byte
	last   int64 // number of the newest message
	acked  int64
	wake   chan struct{} // there is something to send
	change chan struct{} // closed and replaced whenever acked rises
	err    error         // why a half has ended
}

// Dial starts to speak on a port. The hello, with the Agent and Kernel that are given, is sent whenever
// the host asks for it and no start has come yet. Clock, if it is not nil, is called with the host's time each
// time the host tells it, from the goroutine that reads; the time in the start is in the start only. Close ends it.
func Dial(port io.ReadWriteCloser, hello FromGuest, clock func(time.Time)) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	hello.Kind = firerunner.ReportHello
	c := &Client{
		port: port, hello: hello, clock: clock, cancel: cancel,
		starts: make(chan FromHost, 1), orders: make(chan firerunner.GuestOrder, 2),
		wake: make(chan struct{}, 1), change: make(chan struct{}),
	}
	c.ended.Add(2)
	go func() { defer c.ended.Done(); c.fail(c.read(ctx)) }()
	go func() { defer c.ended.Done(); c.fail(c.write(ctx)) }()
	return c
}

// Close closes the port and waits for both halves to end.
func (c *Client) Close() error {
	c.cancel()
	err := c.port.Close()
	c.ended.Wait()
	return err
}

// Start waits for the host's start.
func (c *Client) Start(ctx context.Context) (FromHost, error) {
	select {
	case m := <-c.starts:
		return m, nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			return FromHost{}, firerunner.Errorf(firerunner.Unavailable, "wait for the host's start: %w", c.err)
		}
		return FromHost{}, firerunner.Errorf(firerunner.Unavailable, "wait for the host's start: %w", ctx.Err())
	}
}

// Orders gives the host's orders. Of orders that nobody takes, at least a stop is kept.
func (c *Client) Orders() <-chan firerunner.GuestOrder { return c.orders }

// Report queues a message; it never waits. Where the host has not read for long, the message is dropped.
func (c *Client) Report(m FromGuest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) >= maxUnsent {
		return
	}
	m.Number = c.last + 1
	line, err := EncodeFromGuest(m)
	if err != nil {
		return // only an absurd hello is too long; there is nobody to tell
	}
	c.last = m.Number
	c.queue = append(c.queue, line)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Flush waits until the host has acknowledged everything.
func (c *Client) Flush(ctx context.Context) error {
	for {
		c.mu.Lock()
		done, change := c.acked >= c.last, c.change
		c.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return firerunner.Errorf(firerunner.Unavailable, "wait for the host to read: %w", ctx.Err())
		}
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *Client) read(ctx context.Context) error {
	in, started := newLines(&patientReader{ctx: ctx, r: c.port}, MaxHostLine), false
	for {
		line, err := in.next()
		if errors.Is(err, errLineTooLong) {
			continue
		}
		if err != nil {
			return err
		}
		m, err := DecodeFromHost(line)
		if err != nil {
			continue // half a line that was left from before, or a newer host
		}
		switch m.Kind {
		case HostPing:
			if !started {
				c.Report(c.hello)
			}
		case HostStart:
			if !started {
				started = true
				c.starts <- m
			}
		case HostTime:
			if c.clock != nil {
				c.clock(m.At)
			}
		case HostAck:
			c.acknowledged(m.Number)
		case HostOrder:
			c.ordered(m.Order)
		}
	}
}

func (c *Client) acknowledged(number int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if number > c.acked {
		c.acked = number
		close(c.change)
		c.change = make(chan struct{})
	}
}

// ordered keeps at most two orders for whoever takes them; a stop pushes out a finish that nobody has taken.
func (c *Client) ordered(order firerunner.GuestOrder) {
	select {
	case c.orders <- order:
		return
	default:
	}
	if order == firerunner.OrderStop {
		select {
		case <-c.orders:
		default:
		}
		c.orders <- order // this goroutine is the only one that puts in, so there is room
	}
}

func (c *Client) write(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		}
		for {
			c.mu.Lock()
			if len(c.queue) == 0 {
				c.mu.Unlock()
				break
			}
			line := c.queue[0]
			c.queue = c.queue[1:]
			c.mu.Unlock()
			if _, err := c.port.Write(line); err != nil {
				return err
			}
		}
	}
}

// patientReader takes the end of the stream as "nobody there yet".
type patientReader struct {
	ctx context.Context
	r   io.Reader
}

func (p *patientReader) Read(b []byte) (int, error) {
	for {
		n, err := p.r.Read(b)
		if n > 0 || (err != nil && !errors.Is(err, io.EOF)) {
			return n, err
		}
		again := time.NewTimer(retryEOF)
		select {
		case <-p.ctx.Done():
			again.Stop()
			return 0, p.ctx.Err()
		case <-again.C:
		}
	}
}
