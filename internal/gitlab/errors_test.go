package gitlab

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestErrors_Codes(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]firerunner.Code{
		400: firerunner.Invalid, 401: firerunner.Unauthorized, 403: firerunner.Unauthorized, 404: firerunner.NotFound,
		405: firerunner.Invalid, 408: firerunner.Unavailable, 409: firerunner.Conflict, 410: firerunner.NotFound,
		412: firerunner.Conflict, 422: firerunner.Invalid, 429: firerunner.Exhausted, 500: firerunner.Unavailable,
		501: firerunner.Unavailable, 502: firerunner.Unavailable, 503: firerunner.Unavailable, 504: firerunner.Unavailable,
	} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			for name, do := range everyCall() {
				s := newServer(t, text(status, `{"message":{"base":["is wrong","and worse"]},"error":"oops"}`))
				err := do(t.Context(), newClient(t, s.URL))
				if name == "DeleteRunner" && (status == 404 || status == 410) {
					require.NoError(t, err)
					continue
				}
				require.Equal(t, want, firerunner.CodeOf(err), "%s: %v", name, err)
				require.Contains(t, err.Error(), strconv.Itoa(status), name)
				require.Contains(t, err.Error(), "base is wrong, and worse: oops", name)
			}
		})
	}
}

func TestErrors_RunnerLimit(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(400, `{"message":{"base":["Maximum number of ci registered project runners (1000) exceeded"]}}`))
	_, err := newClient(t, s.URL).CreateRunner(t.Context(), request())
	require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err))
	require.Contains(t, firerunner.HintOf(err), "ci_registered_project_runners")
}

func TestErrors_RateLimit(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		header, value string
		wait          time.Duration
	}{
		"reset":      {"RateLimit-Reset", strconv.FormatInt(now.Add(40*time.Second).Unix(), 10), 40 * time.Second},
		"after":      {"Retry-After", "17", 17 * time.Second},
		"past":       {"RateLimit-Reset", "12", 0},
		"far":        {"RateLimit-Reset", "99999999999999", time.Hour},
		"not number": {"Retry-After", "soon", 0},
		"untold":     {"X-Nothing", "", 0},
	} {
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(test.header, test.value)
			text(429, `{"message":{"error":"This endpoint has been requested too many times."}}`)(w, r)
		})
		c := newClient(t, s.URL, func(cfg *Config) { cfg.Now = func() time.Time { return now } })
		_, err := c.Job(t.Context(), 7, 42)
		require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err), name)
		var later interface{ RetryAfter() time.Duration }
		require.True(t, errors.As(err, &later), name)
		require.Equal(t, test.wait, later.RetryAfter(), name)
		require.Len(t, s.requests(), 1, "a 429 is not repeated")
		if name == "reset" {
			require.Contains(t, err.Error(), "2026-09-01T12:00:40Z")
		}
	}
}

// GitLab's words are repeated, but never more than some, never on two lines, and never a token, even if an answer
// holds what was sent.
func TestErrors_Bounded(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"echo":   `{"message":"` + testToken + ` glrt-0123456789abcdef whsec_dGVzdHRlc3R0ZXN0 glpat-xxxxxxxxxxxxxxxxxxxx"}`,
		"long":   `{"message":"` + strings.Repeat("a", 10_000) + `"}`,
		"huge":   `{"message":"` + strings.Repeat("a", 1<<20) + `"}`,
		"escape": `{"message":"\u001b[31mred\u0000\r\nsecond \u202e line"}`,
		"deep":   `{"message":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`,
		"html":   `<html><body>` + testToken + `</body></html>`,
		"number": `{"message":42,"error":null}`,
		"empty":  ``,
	} {
		for _, status := range []int{400, 401, 404, 500, 302} {
			s := newServer(t, text(status, body))
			_, err := newClient(t, s.URL, func(cfg *Config) { cfg.Attempts = 1 }).Job(t.Context(), 7, 42)
			require.Error(t, err)
			require.Less(t, len(err.Error()), 1000, "%s %d", name, status)
			require.NotContains(t, err.Error(), testToken)
			require.NotRegexp(t, `glrt-|glpat-|whsec_`, err.Error())
			require.False(t, strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }), err.Error())
		}
	}
}

func TestAnswers_ErrHostile(t *testing.T) {
	t.Parallel()
	zeros := func(w io.Writer) {
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for range 20 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"html":  text(200, `<html>please log in</html>`),
		"empty": text(200, ``),
		"types": text(200, `{"id":{},"status":[],"version":[],"tag_list":"x"}`),
		"huge":  func(w http.ResponseWriter, _ *http.Request) { zeros(w) },
		"bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			zeros(z)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for call, do := range everyCall() {
				if call == "DeleteRunner" {
					continue // whose answer is not read
				}
				s := newServer(t, answer)
				c := newClient(t, s.URL)
				c.http.Transport.(*transport).most = 1 << 20
				err := do(t.Context(), c)
				require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), "%s: %v", call, err)
				if name == "huge" || name == "bomb" {
					require.Contains(t, err.Error(), "too large", call)
				}
			}
		})
	}
}

func TestNew_ErrConfig(t *testing.T) {
	t.Parallel()
	empty := t.TempDir() + "/empty.pem"
	require.NoError(t, os.WriteFile(empty, []byte("nothing"), 0o600))
	for name, cfg := range map[string]Config{
		"no url":     {Token: StaticToken("x")},
		"scheme":     {URL: "ftp://gitlab", Token: StaticToken("x")},
		"no scheme":  {URL: "gitlab.example.com", Token: StaticToken("x")},
		"no host":    {URL: "https://", Token: StaticToken("x")},
		"user":       {URL: "https://user:hunter2@gitlab", Token: StaticToken("x")},
		"query":      {URL: "https://gitlab?private_token=hunter2", Token: StaticToken("x")},
		"unreadable": {URL: "https://git lab:hunter2", Token: StaticToken("x")},
		"no token":   {URL: "https://gitlab"},
		"no CA":      {URL: "https://gitlab", Token: StaticToken("x"), CAFile: "/nonexistent"},
		"empty CA":   {URL: "https://gitlab", Token: StaticToken("x"), CAFile: empty},
	} {
		_, err := New(cfg)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), name)
		require.NotEmpty(t, firerunner.HintOf(err), name)
		require.NotContains(t, err.Error(), "hunter2", name)
	}
}

func TestToken_ErrFile(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(200, `{"version":"19.4.0"}`))
	dir := t.TempDir()
	for name, content := range map[string]string{
		"empty": " \n", "two lines": "a\nb", "control": "a\x00b", "long": strings.Repeat("a", 5000),
	} {
		path := dir + "/" + strings.ReplaceAll(name, " ", "_")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err := newClient(t, s.URL, func(cfg *Config) { cfg.Token = TokenFile(path) }).Check(t.Context())
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "%s: %v", name, err)
		require.NotEmpty(t, firerunner.HintOf(err))
		require.NotContains(t, err.Error(), "aaaa")
	}
	_, err := newClient(t, s.URL, func(cfg *Config) { cfg.Token = TokenFile(dir + "/none") }).Check(t.Context())
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	require.Empty(t, s.requests(), "nothing is sent without a token")
}

func TestToken_Rotated(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(200, `{"version":"19.4.0"}`))
	path := t.TempDir() + "/token"
	c := newClient(t, s.URL, func(cfg *Config) { cfg.Token = TokenFile(path) })
	for _, token := range []string{"glpat-first", "glpat-second"} {
		require.NoError(t, os.WriteFile(path, []byte(token+"\n"), 0o600))
		_, err := c.Job(t.Context(), 7, 42)
		require.Error(t, err) // it is not that job
		all := s.requests()
		require.Equal(t, token, all[len(all)-1].token)
	}
}

// FuzzAnswer feeds answers to every call: no panic, a code for each error, and no token and nothing unprintable in it.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "", `{"id":42,"status":"pending","tag_list":["a"]}`)
	f.Add(200, "<x>; rel", `[{"id":1,"status":"pending"},null]`)
	f.Add(500, "", `{"message":{"a":["b"]}}`)
	f.Add(429, "", testToken)
	f.Add(301, "", `null`)
	f.Fuzz(func(t *testing.T, status int, link, body string) {
		if status < 200 || status > 599 {
			t.Skip("not an answer")
		}
		c, err := New(Config{URL: "http://127.0.0.1:1", Token: StaticToken(testToken), Attempts: 1})
		require.NoError(t, err)
		c.http.Transport.(*transport).next = answers(func(r *http.Request) *http.Response {
			w := httptest.NewRecorder()
			w.Header()["Link"] = []string{link}
			w.Header().Set("X-Next-Page", link)
			w.Header().Set("RateLimit-Reset", link)
			w.WriteHeader(status)
			_, _ = w.WriteString(body)
			resp := w.Result()
			resp.Request = r
			return resp
		})
		for name, do := range everyCall() {
			err := do(t.Context(), c)
			if err == nil {
				continue
			}
			var coded *firerunner.Error
			require.ErrorAs(t, err, &coded, name)
			require.NotEqual(t, firerunner.Internal, coded.Code, name)
			require.NotContains(t, err.Error(), testToken, name)
			require.Less(t, len(err.Error()), 4000, name)
			require.False(t, strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }), name)
		}
	})
}

type answers func(*http.Request) *http.Response

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }
