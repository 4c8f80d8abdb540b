package guest

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkEndpointReturn is a guest that comes back: a TLS handshake, an attach, the answer. Both ends are counted.
func BenchmarkEndpointReturn(b *testing.B) {
	d := newDesk()
	d.used = true
	certificate, err := LoadCertificate(b.TempDir())
	require.NoError(b, err)
	e, err := NewEndpoint(EndpointConfig{Desk: d, Certificate: certificate})
	require.NoError(b, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, listener) }()
	defer func() { cancel(); <-served }()
	pin, err := ParseFingerprint(Fingerprint(certificate))
	require.NoError(b, err)
	for b.Loop() {
		conn, err := tls.Dial("tcp", listener.Addr().String(), pinned(pin))
		require.NoError(b, err)
		_, err = io.WriteString(conn, `{"v":1,"kind":"attach","id":"vm-1","session":"`+deskSession+`"}`+"\n")
		require.NoError(b, err)
		_, err = bufio.NewReader(conn).ReadString('\n')
		require.NoError(b, err)
		_ = conn.Close()
	}
}
