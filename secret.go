package firerunner

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// Secret is a credential. It cannot be printed, logged, formatted or marshalled: all of those say [redacted].
// Only Reveal gives the value, so that every place which lets a secret out can be found by that word.
type Secret string

const redacted = "[redacted]"

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// String says [redacted], or nothing for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format says the same for every verb, %x and %#v included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue says the same to slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON says the same to JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalText says the same to every text format.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
