package flintlock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/firerunner/firerunner"
)

const (
	// A host answers with at most this much: some hundred microVMs, each with its metadata.
	maxAnswer  = 16 << 20
	maxRequest = 1 << 20
	// A gRPC server that is not told otherwise takes a ping more often than every 5 minutes for an attack:
	// https://pkg.go.dev/google.golang.org/grpc/keepalive#EnforcementPolicy. What is dead sooner is found by the
	// deadline of each call and by unacked.
	pingEvery = 6 * time.Minute
	// unacked is how long what was sent may stay unacknowledged until the kernel gives the connection up.
	unacked = 20 * time.Second
)

// dial makes the way to a host. Nothing is sent before the first call.
func dial(h Host) (*grpc.ClientConn, error) {
	transport, err := transportOf(h)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithContextDialer(dialTCP),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // a Create that is sent twice is two microVMs
		grpc.WithUserAgent("firerunner"),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: unacked}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer), grpc.MaxCallSendMsgSize(maxRequest)),
	}
	if h.Token != "" {
		options = append(options, grpc.WithPerRPCCredentials(tokenCredentials{token: h.Token, insecure: h.TLS.Insecure}))
	}
	conn, err := grpc.NewClient("passthrough:///"+h.Endpoint, options...)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: %w", h.Name, err)
	}
	return conn, nil
}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if controlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacked.Milliseconds()))
		}); controlErr != nil {
			return controlErr
		}
		return err
	}}
	return d.DialContext(ctx, "tcp", address)
}

func transportOf(h Host) (credentials.TransportCredentials, error) {
	if h.TLS.Insecure {
		return insecure.NewCredentials(), nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: h.TLS.ServerName}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(h.Endpoint)
	}
	if h.TLS.CAFile != "" {
		pem, err := os.ReadFile(h.TLS.CAFile)
		if err != nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: reading its CA: %w", h.Name, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: %s holds no certificate in PEM", h.Name, h.TLS.CAFile)
		}
	}
	if h.TLS.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(h.TLS.CertFile, h.TLS.KeyFile)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: reading our certificate: %w", h.Name, err)
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return heardOut{credentials.NewTLS(cfg)}, nil
}

// tokenCredentials is flintlockd's basic authentication: the token alone, with no user before it.
type tokenCredentials struct {
	token    firerunner.Secret
	insecure bool
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c tokenCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(c.token.Reveal()))}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: without TLS the token is sent only where the
// operator said so.
func (c tokenCredentials) RequireTransportSecurity() bool { return !c.insecure }
