package flintlock

import (
	"errors"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/reportlog"
)

// errLeftAlone is a host whose circuit breaker is open: nothing was sent.
var errLeftAlone = errors.New("it has not answered for some time and is left alone for a moment")

// expiry is what crypto/x509 says of a certificate's dates.
var expiry = regexp.MustCompile(`: current time \S+ is (after|before) (\S+?)("?)$`)

// dated takes the time of looking out of an error about a certificate's dates: with it each look would be another error.
func dated(text string) string {
	return expiry.ReplaceAllStringFunc(text, func(found string) string {
		part := expiry.FindStringSubmatch(found)
		if part[1] == "before" {
			return ", it begins at " + part[2] + part[3]
		}
		return ", it ended at " + part[2] + part[3]
	})
}

// maxText is the longest part of a host's own words in an error.
const maxText = 500

// absent reports whether an error says that there is no such microVM. flintlockd has no code for it: it is Unknown
// with a text that ends so.
func absent(err error) bool {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return false
	}
	return s.Code() == codes.NotFound || s.Code() == codes.Unknown && strings.HasSuffix(strings.TrimSpace(s.Message()), "not found")
}

// refused reports whether an error says that the host did not do what it was asked, for certain. After any other it may
// have done it.
func refused(err error) bool {
	if errors.Is(err, errLeftAlone) {
		return true
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented, codes.ResourceExhausted:
		return true
	}
	return false
}

// answered reports whether an error is the host's own word, and not that of the network.
func answered(err error) bool { return status.Code(err) == codes.Unknown }

// fault makes an Error of what a call returned: which host, what we were doing, and what helps.
func (d *daemon) fault(err error, doing string) error {
	if last, ok := d.silence.Load().(silence); ok && errors.Is(err, errLeftAlone) {
		// One that answers and is refused by us, or refuses us, is left alone too. That stays its trouble meanwhile.
		if fault := d.fault(last.error, doing); firerunner.CodeOf(fault) != firerunner.Unavailable {
			return fault
		}
	}
	if errors.Is(err, errLeftAlone) {
		return firerunner.Errorf(firerunner.Unavailable, "host %s (%s): %s: %w", d.Name, d.Endpoint, doing, err).
			WithHint("see that flintlockd runs there and is reached; it is tried again every %s", d.again)
	}
	s := status.Convert(err)
	text := reportlog.Clean(dated(s.Message()), maxText)
	failed := func(code firerunner.Code, format string, args ...any) error {
		e := firerunner.Errorf(code, "host %s (%s): %s: %s", d.Name, d.Endpoint, doing, text).WithHint(format, args...)
		e.Err = err
		return e
	}
	switch s.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		return failed(firerunner.Unauthorized, "set the host's token to the one of its flintlockd (--basic-auth-token)")
	case codes.Unavailable:
		switch {
		case strings.Contains(text, "first record does not look like a TLS handshake"):
			return failed(firerunner.Unauthorized, "flintlockd runs there with --insecure: give it a certificate, or set tls.insecure for this host")
		case strings.Contains(text, "tls:") || strings.Contains(text, "x509:"):
			return failed(firerunner.Unauthorized, "check the certificates of %s and ours: their dates, names and authorities", d.Name)
		case strings.Contains(text, "error reading server preface"), strings.Contains(text, "connection reset"), strings.Contains(text, "broken pipe"):
			return failed(firerunner.Unavailable, "if flintlockd there wants TLS or a client certificate, configure it for this host")
		}
		return failed(firerunner.Unavailable, "see that flintlockd runs on %s and that %s is reached from here", d.Name, d.Endpoint)
	case codes.DeadlineExceeded:
		return failed(firerunner.Unavailable, "see whether flintlockd on %s hangs: it makes one microVM after another", d.Name)
	case codes.Canceled:
		return failed(firerunner.Unavailable, "try again")
	case codes.InvalidArgument:
		return failed(firerunner.Invalid, "this is a mistake of ours: please report it")
	case codes.Unimplemented:
		return failed(firerunner.Conflict, "%s is not flintlockd, or a version without this call", d.Endpoint)
	case codes.ResourceExhausted:
		return failed(firerunner.Exhausted, "remove microVMs from %s that nobody needs", d.Name)
	}
	return failed(firerunner.Conflict, "see the log of flintlockd on %s", d.Name)
}
