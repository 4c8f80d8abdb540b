package flintlock

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/firerunner/firerunner"
)

// console keeps a bounded part of what a guest printed, in memory: the beginning, and the end, where a system's last
// words are. The host's own record of the console is a file on the host that no call leads to.
type console struct {
	head, tail []byte
	dropped    int64
}

// write keeps what fits: three quarters of most for the beginning, the rest for the end.
func (c *console) write(text []byte, most int) {
	room := max(0, most*3/4-len(c.head))
	n := min(room, len(text))
	c.head = append(c.head, text[:n]...)
	c.tail = append(c.tail, text[n:]...)
	if over := len(c.tail) - most/4; over > 0 {
		c.dropped += int64(over)
		c.tail = append([]byte(nil), c.tail[over:]...)
	}
}

func (c *console) text() []byte {
	var b bytes.Buffer
	b.Write(c.head)
	if c.dropped > 0 {
		fmt.Fprintf(&b, "\n[firerunner: %d bytes of console output are dropped here]\n", c.dropped)
	}
	b.Write(c.tail)
	return b.Bytes()
}

// Print keeps what a guest sent of its console. See firerunner.GuestDesk.
func (d *Driver) Print(id string, text []byte) {
	vm, ok := d.vms.get(id)
	if !ok {
		return
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if admitted(vm.row) {
		vm.console.write(text, d.cfg.ConsoleBytes)
	}
}

// Console returns what the guest has sent of its console so far; it begins anew with the daemon. See firerunner.Console.
func (d *Driver) Console(_ context.Context, id string) (io.ReadCloser, error) {
	vm, ok := d.vms.get(id)
	if !ok {
		return nil, firerunner.Errorf(firerunner.NotFound, "flintlock: there is no microVM %.80q", id)
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return io.NopCloser(bytes.NewReader(vm.console.text())), nil
}
