package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"

	"github.com/firerunner/firerunner"
)

// NewLogger returns the daemon's log: format is "text" or "json", level is "debug", "info", "warn" or "error". Its
// errors are Invalid.
//
// Secrets are kept out of logs by firerunner.Secret. This is the second line: what has the name of a secret, or looks
// like one of GitLab's tokens, is redacted here too.
func NewLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "log: unknown level %q", level).WithHint("use debug, info, warn or error")
	}
	return NewLoggerAt(w, format, least)
}

// NewLoggerAt is NewLogger with a level that may change meanwhile.
func NewLoggerAt(w io.Writer, format string, least slog.Leveler) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: least, ReplaceAttr: redact}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, firerunner.Errorf(firerunner.Invalid, "log: unknown format %q", format).WithHint("use text or json")
}

const redacted = "[redacted]"

// secretNames are words that make an attribute's name the name of a secret. A name that ends in file or path names
// the place of one, and is shown.
func secretNames() []string {
	return []string{"token", "secret", "password", "passwd", "authorization", "credential", "cookie", "signature", "private", "api_key", "apikey"}
}

// secretValue matches GitLab's tokens by their prefixes (https://docs.gitlab.com/security/tokens/#token-prefixes),
// signing tokens, and credentials in an Authorization header or a URL.
var secretValue = regexp.MustCompile(`\b(?:gl(?:pat|oas|dt|rtr?|cbt|ptt|ft|imt|agent|soat|ffct|wt)-|GR1348941|whsec_)[A-Za-z0-9_=.+/-]{8,}|(?i:\b(bearer|basic) )[A-Za-z0-9_=.+/-]{8,}|://[^/@\s"]+:[^/@\s"]+@`)

// redact is slog's ReplaceAttr.
func redact(_ []string, a slog.Attr) slog.Attr {
	name := strings.ToLower(a.Key)
	if !strings.HasSuffix(name, "file") && !strings.HasSuffix(name, "path") {
		for _, word := range secretNames() {
			if strings.Contains(name, word) && a.Value.Kind() != slog.KindGroup {
				return slog.String(a.Key, redacted)
			}
		}
	}
	switch a.Value.Kind() {
	case slog.KindString:
		return cleaned(a, a.Value.String())
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			return cleaned(a, v.Error())
		case fmt.Stringer:
			return cleaned(a, v.String())
		case []byte:
			return cleaned(a, string(v))
		case []string, map[string]string:
			return cleaned(a, fmt.Sprint(v))
		}
	}
	return a
}

// cleaned replaces what looks like a secret in text; an attribute without any is left as it is.
func cleaned(a slog.Attr, text string) slog.Attr {
	if !secretValue.MatchString(text) {
		return a
	}
	return slog.String(a.Key, secretValue.ReplaceAllString(text, redacted))
}
