package guest

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text makes foreign text safe to keep and to show: valid UTF-8, one line, no control or formatting characters
// (terminal escapes, right-to-left overrides), at most limit bytes.
func Text(s string, limit int) string {
	if len(s) > 4*limit {
		s = s[:4*limit] // bounds the work; what is cut here is beyond the limit anyway
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\r', r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		default:
			return -1
		}
	}, s)
	s = strings.TrimSpace(s)
	if len(s) <= limit {
		return s
	}
	const dots = "…"
	if limit < len(dots) {
		return ""
	}
	cut := limit - len(dots)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + dots
}

// word reports whether s is at most limit bytes of letters, digits, and the few marks that versions, ids and
// failure reasons are made of.
func word(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune("._+~:()/ -", r):
		default:
			return false
		}
	}
	return true
}

// name reports whether s can be the name of a microVM: 1 to 64 letters, digits, and . _ - within.
func name(s string) bool {
	return s != "" && s[0] != '.' && s[0] != '-' && len(s) <= maxID && word(s, maxID) && !strings.ContainsAny(s, "+~:()/ ")
}

// credential reports whether s can be a token or a session, or none: printable ASCII without spaces.
func credential(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= maxSecret
}
