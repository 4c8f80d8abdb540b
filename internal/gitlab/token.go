package gitlab

import (
	"io"
	"net"
	"os"
	"strings"

	"github.com/firerunner/firerunner"
)

// TokenSource gives FireRunner's own token. It is asked before every request, so that a token can be rotated while
// FireRunner runs.
type TokenSource func() (firerunner.Secret, error)

// StaticToken is a token that does not change.
func StaticToken(token firerunner.Secret) TokenSource {
	return func() (firerunner.Secret, error) { return checkToken(token.Reveal()) }
}

// mostTokenBytes bounds a token file: GitLab's tokens have some 20 to 300 characters.
const mostTokenBytes = 4096

// TokenFile reads the token from a file each time: replace the file, and the next request uses the new token.
func TokenFile(path string) TokenSource {
	return func() (firerunner.Secret, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", firerunner.Errorf(firerunner.Invalid, "gitlab: reading the token: %w", err).
				WithHint("check gitlab.token_file, and that FireRunner may read it")
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, mostTokenBytes+1))
		if err != nil {
			return "", firerunner.Errorf(firerunner.Unavailable, "gitlab: reading the token: %w", err)
		}
		return checkToken(string(text))
	}
}

// checkToken refuses what cannot be sent as a header, without saying what it was.
func checkToken(text string) (firerunner.Secret, error) {
	text = strings.TrimSpace(text)
	bad := ""
	switch {
	case text == "":
		bad = "is empty"
	case len(text) > mostTokenBytes:
		bad = "is too long for a token"
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		bad = "holds characters that no token has"
	}
	if bad != "" {
		return "", firerunner.Errorf(firerunner.Invalid, "gitlab: the token %s", bad).
			WithHint("put the access token, and nothing else, into gitlab.token_file")
	}
	return firerunner.Secret(text), nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
