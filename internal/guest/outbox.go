package guest

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// outbox holds what the host has to say to one guest. A guest that does not read cannot make it grow: there is
// at most one of each kind in it, the newest.
type outbox struct {
	wake chan struct{}

	mu      sync.Mutex
	ping    bool
	started []byte // the encoded start
	finish  bool
	stop    bool
	clock   func() time.Time
	acked   int64
	unsent  bool   // acked has not been sent
	bye     []byte // the encoded refusal; nothing is sent after it
	over    bool
}

// errRefused is why drain ends once it has sent a refusal.
var errRefused = errors.New("the guest was refused")

func newOutbox() *outbox {
	o := &outbox{wake: make(chan struct{}, 1), ping: true}
	o.wake <- struct{}{}
	return o
}

// newOutboxOf makes one whose first line is the answer to an attach.
func newOutboxOf(answer []byte) *outbox {
	o := &outbox{wake: make(chan struct{}, 1), started: answer}
	o.wake <- struct{}{}
	return o
}

func (o *outbox) refuse(code firerunner.Code) {
	if line, err := EncodeFromHost(FromHost{Kind: HostRefused, Code: code}); err == nil {
		o.change(func() { o.bye = line })
	}
}

func (o *outbox) change(f func()) {
	o.mu.Lock()
	f()
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) start(m FromHost) error {
	line, err := EncodeFromHost(m)
	if err != nil {
		return err
	}
	o.change(func() { o.started = line })
	return nil
}

func (o *outbox) ack(number int64) {
	o.change(func() { o.acked, o.unsent = number, true })
}

// again sends the last acknowledgement once more: the answer to a sign of life.
func (o *outbox) again() {
	o.change(func() { o.unsent = true })
}

func (o *outbox) tell(clock func() time.Time) {
	o.change(func() { o.clock = clock })
}

// order ignores an order that there is no word for: the caller is our own code.
func (o *outbox) order(order firerunner.GuestOrder) {
	o.change(func() {
		switch order {
		case firerunner.OrderFinish:
			o.finish = true
		case firerunner.OrderStop:
			o.stop = true
		}
	})
}

// next takes the most urgent line out; nil when there is none.
func (o *outbox) next() ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.ping:
		o.ping = false
		return EncodeFromHost(FromHost{Kind: HostPing})
	case o.started != nil:
		line := o.started
		o.started = nil
		return line, nil
	case o.over:
		return nil, errRefused
	case o.bye != nil:
		o.over = true
		return o.bye, nil
	case o.stop:
		o.stop, o.finish = false, false // the greater order says it all
		return EncodeFromHost(FromHost{Kind: HostOrder, Order: firerunner.OrderStop})
	case o.finish:
		o.finish = false
		return EncodeFromHost(FromHost{Kind: HostOrder, Order: firerunner.OrderFinish})
	case o.clock != nil:
		at := o.clock()
		o.clock = nil
		return EncodeFromHost(FromHost{Kind: HostTime, At: at})
	case o.unsent:
		o.unsent = false
		return EncodeFromHost(FromHost{Kind: HostAck, Number: o.acked})
	}
	return nil, nil
}

// drain writes lines until the context ends, which is nil, or a write fails.
func (o *outbox) drain(ctx context.Context, w io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		}
		if err := o.send(ctx, w); err != nil {
			return err
		}
	}
}

// send writes the lines that there are. What fails after the context has ended is no error.
func (o *outbox) send(ctx context.Context, w io.Writer) error {
	for {
		line, err := o.next()
		if err != nil || line == nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}
