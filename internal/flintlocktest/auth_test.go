package flintlocktest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
)

func TestToken(t *testing.T) {
	c := dial(t, start(t, flintlocktest.Config{Token: "s3cret"}))
	for name, tc := range map[string]struct {
		header string
		code   codes.Code
	}{
		"OK":            {"Basic " + encoded("s3cret"), codes.OK},
		"OK any case":   {"bAsIc " + encoded("s3cret"), codes.OK},
		"ErrNone":       {"", codes.Unauthenticated},
		"ErrWrong":      {"Basic " + encoded("other"), codes.Unauthenticated},
		"ErrWithUser":   {"Basic " + encoded("user:s3cret"), codes.Unauthenticated},
		"ErrNotBase64":  {"Basic s3cret", codes.Unauthenticated},
		"ErrScheme":     {"Bearer " + encoded("s3cret"), codes.Unauthenticated},
		"ErrSchemeOnly": {"Basic", codes.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := soon(t)
			if tc.header != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", tc.header)
			}
			_, err := c.ListMicroVMs(ctx, &v1alpha1.ListMicroVMsRequest{})
			requireCode(t, tc.code, "", err)
			stream, err := c.ListMicroVMsStream(ctx, &v1alpha1.ListMicroVMsRequest{Namespace: "x"})
			require.NoError(t, err)
			if _, err = stream.Recv(); tc.code != codes.OK {
				requireCode(t, tc.code, "", err)
			}
		})
	}
}

// TestReflection: both versions answer, behind the token; there is no health service.
func TestReflection(t *testing.T) {
	srv := start(t, flintlocktest.Config{Token: "s3cret"})
	conn, err := grpc.NewClient(srv.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	known := metadata.AppendToOutgoingContext(soon(t), "authorization", "Basic "+encoded("s3cret"))

	services := func(ctx context.Context) (names []string, err error) {
		stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		require.NoError(t, err)
		// An error of sending is only that the answer is there already.
		_ = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
		answer, err := stream.Recv()
		for _, s := range answer.GetListServicesResponse().GetService() {
			names = append(names, s.GetName())
		}
		return names, err
	}
	names, err := services(known)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"microvm.services.api.v1alpha1.MicroVM", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
	}, names)
	_, err = services(soon(t))
	requireCode(t, codes.Unauthenticated, "", err)

	// The older version has the same messages, on the wire.
	old, err := conn.NewStream(known, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
	require.NoError(t, err)
	require.NoError(t, old.SendMsg(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "microvm.services.api.v1alpha1.MicroVM"},
	}))
	answer := &reflectionv1.ServerReflectionResponse{}
	require.NoError(t, old.RecvMsg(answer))
	require.NotEmpty(t, answer.GetFileDescriptorResponse().GetFileDescriptorProto())

	_, err = healthv1.NewHealthClient(conn).Check(known, &healthv1.HealthCheckRequest{})
	requireCode(t, codes.Unimplemented, "", err)
}

// identity is a certificate of its own.
func identity(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestTLS(t *testing.T) {
	server, serverPool := identity(t)
	client, clientPool := identity(t)
	stranger, _ := identity(t)
	plain := start(t, flintlocktest.Config{TLS: &tls.Config{Certificates: []tls.Certificate{server}}})
	mutual := start(t, flintlocktest.Config{TLS: &tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: clientPool, ClientAuth: tls.RequireAndVerifyClientCert,
	}})
	for name, tc := range map[string]struct {
		srv  *flintlocktest.Server
		with *tls.Config // nil = no TLS
		code codes.Code
	}{
		"OK":              {plain, &tls.Config{RootCAs: serverPool}, codes.OK},
		"ErrTLS12":        {plain, &tls.Config{RootCAs: serverPool, MaxVersion: tls.VersionTLS12}, codes.Unavailable},
		"ErrUnknownHost":  {plain, &tls.Config{RootCAs: clientPool}, codes.Unavailable},
		"ErrPlain":        {plain, nil, codes.Unavailable},
		"mutual OK":       {mutual, &tls.Config{RootCAs: serverPool, Certificates: []tls.Certificate{client}}, codes.OK},
		"mutual ErrNone":  {mutual, &tls.Config{RootCAs: serverPool}, codes.Unavailable},
		"mutual ErrOther": {mutual, &tls.Config{RootCAs: serverPool, Certificates: []tls.Certificate{stranger}}, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			as := insecure.NewCredentials()
			if tc.with != nil {
				as = credentials.NewTLS(tc.with)
			}
			_, err := dial(t, tc.srv, grpc.WithTransportCredentials(as)).ListMicroVMs(soon(t), &v1alpha1.ListMicroVMsRequest{})
			requireCode(t, tc.code, "", err)
		})
	}
}
