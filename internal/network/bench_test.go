package network

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// Throughput between a guest and a server on the host: two TCP/IP stacks, a unix socket in QEMU's framing, and
// a loopback connection, all in this process. A real guest has its own stack on its own core.
func BenchmarkThroughput(b *testing.B) {
	const block = 1 << 20
	for _, mtu := range []int{1500, 9000, maxMTU} {
		b.Run(fmt.Sprintf("from-guest/mtu=%d", mtu), func(b *testing.B) {
			done := make(chan int64, 1)
			addr := listen(b, func(conn *net.TCPConn) {
				size, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
				done <- size
			})
			n := newNetwork(b, Config{Policy: route("sink", 80, addr), MTU: mtu})
			conn, err := newGuest(b, n).dial("10.42.0.8:80")
			require.NoError(b, err)
			buf := make([]byte, block)
			b.SetBytes(block)
			for b.Loop() {
				_, err := conn.Write(buf)
				require.NoError(b, err)
			}
			require.NoError(b, conn.CloseWrite())
			require.NotZero(b, <-done)
		})
		b.Run(fmt.Sprintf("to-guest/mtu=%d", mtu), func(b *testing.B) {
			addr := listen(b, func(conn *net.TCPConn) {
				buf := make([]byte, block)
				for {
					if _, err := conn.Write(buf); err != nil {
						return
					}
				}
			})
			n := newNetwork(b, Config{Policy: route("source", 80, addr), MTU: mtu})
			conn, err := newGuest(b, n).dial("10.42.0.8:80")
			require.NoError(b, err)
			buf := make([]byte, block)
			b.SetBytes(block)
			for b.Loop() {
				_, err := io.ReadFull(conn, buf)
				require.NoError(b, err)
			}
			conn.Close()
		})
	}
}

// One short connection: opened, answered and ended.
func BenchmarkConnect(b *testing.B) {
	n := newNetwork(b, Config{Policy: route("echo", 80, listen(b, echo))})
	g := newGuest(b, n)
	for b.Loop() {
		conn, err := g.dial("10.42.0.8:80")
		require.NoError(b, err)
		_, err = conn.Write([]byte("x"))
		require.NoError(b, err)
		require.NoError(b, conn.CloseWrite())
		_, err = io.ReadAll(conn)
		require.NoError(b, err)
		conn.Close()
	}
}
