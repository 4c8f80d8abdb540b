package flintlocktest

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serverTLS is a configuration as flintlockd has it: TLS 1.3 and nothing older.
func serverTLS(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13
	return cfg
}

// authorize looks for the token, which comes as "Basic" and the base64 of the token alone, without a user. It holds
// for reflection too, and knows no rights: who may call may do everything.
func (s *Server) authorize(ctx context.Context) error {
	want := s.cfg.Token.Reveal()
	if want == "" {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 {
		return status.Error(codes.Unauthenticated, "Request unauthenticated with basic")
	}
	scheme, encoded, found := strings.Cut(values[0], " ")
	if !found {
		return status.Error(codes.Unauthenticated, "Bad authorization string")
	}
	if !strings.EqualFold(scheme, "basic") {
		return status.Error(codes.Unauthenticated, "Request unauthenticated with basic")
	}
	given, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || subtle.ConstantTimeCompare(given, []byte(want)) != 1 {
		return status.Error(codes.Unauthenticated, "invalid auth token")
	}
	return nil
}
