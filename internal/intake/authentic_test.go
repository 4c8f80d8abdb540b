package intake

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// GitLab's own recipe, computed once with its Python example.
func TestSignature_Vector(t *testing.T) {
	t.Parallel()
	const want = "v1,Wq9CVJFg0OkKkw0qgKXOd6pkG5SLVPm8tHFqhmzcHo0="
	require.Equal(t, want, sign(signingToken, "f5e5f430-f57b-4e6e-9fac-d9128cd7232f", time.Unix(1744578123, 0), `{"object_kind":"build"}`))

	h := newHouse(t, func(cfg *Config) { cfg.Tokens, cfg.SigningTokens = nil, []firerunner.Secret{signingToken} })
	_, got := h.deliver(post(`{"object_kind":"build"}`, "webhook-id", "f5e5f430-f57b-4e6e-9fac-d9128cd7232f",
		"webhook-timestamp", "1744578123", "webhook-signature", want))
	require.Equal(t, Ignored, got, "authentic, and without a job in it")
}

func TestSignature_Verified(t *testing.T) {
	t.Parallel()
	now := time.Unix(1744578123, 0)
	body := hookBody(1, "pending", "null")
	good := sign(signingToken, "id", now, body)
	zero := "v1," + strings.Repeat("A", 43) + "="
	for name, test := range map[string]struct {
		headers []string
		body    string
		want    Result
	}{
		"good":               {nil, body, Queued},
		"several, good last": {[]string{"webhook-signature", zero + " v1a,xyz  v2,abc " + good}, body, Queued},
		"twenty, good last":  {[]string{"webhook-signature", strings.Repeat(zero+" ", 20) + good}, body, Unauthorized},
		"body changed":       {nil, body + " ", Unauthorized},
		"id changed":         {[]string{"webhook-id", "other"}, body, Unauthorized},
		"id missing":         {[]string{"webhook-id", ""}, body, Unauthorized},
		"id long":            {[]string{"webhook-id", strings.Repeat("i", 300)}, body, Unauthorized},
		"time changed":       {[]string{"webhook-timestamp", fmt.Sprint(now.Unix() + 1)}, body, Unauthorized},
		"time missing":       {[]string{"webhook-timestamp", ""}, body, Unauthorized},
		"time odd":           {[]string{"webhook-timestamp", "soon"}, body, Unauthorized},
		"time negative":      {[]string{"webhook-timestamp", "-1744578123"}, body, Unauthorized},
		"time overflows":     {[]string{"webhook-timestamp", "9223372036854775807"}, body, Unauthorized},
		"signature missing":  {[]string{"webhook-signature", ""}, body, Unauthorized},
		"signature wrong":    {[]string{"webhook-signature", zero}, body, Unauthorized},
		"signature short":    {[]string{"webhook-signature", "v1,AAAA"}, body, Unauthorized},
		"not base64":         {[]string{"webhook-signature", "v1,%%%"}, body, Unauthorized},
		"version missing":    {[]string{"webhook-signature", strings.TrimPrefix(good, "v1,")}, body, Unauthorized},
		"other version":      {[]string{"webhook-signature", strings.Replace(good, "v1", "v2", 1)}, body, Unauthorized},
		"by another key":     {[]string{"webhook-signature", sign(otherSigning, "id", now, body)}, body, Unauthorized},
		"downgrade": {[]string{
			"webhook-signature", "", "webhook-id", "", "webhook-timestamp", "", "X-Gitlab-Token", secretToken,
		}, body, Unauthorized},
	} {
		h := newHouse(t, func(cfg *Config) { cfg.SigningTokens = []firerunner.Secret{signingToken} }) // and the plain token too
		r := post(test.body, append([]string{
			"X-Gitlab-Token", "", "webhook-id", "id", "webhook-timestamp", fmt.Sprint(now.Unix()), "webhook-signature", good,
		}, test.headers...)...)
		w, got := h.deliver(r)
		require.Equal(t, test.want, got, name)
		require.Equal(t, test.want.status(), w.Code)
		require.Equal(t, test.want == Queued, h.store.updates == 1, name)
	}
}

func TestSignature_TimeTolerance(t *testing.T) {
	t.Parallel()
	for off, want := range map[time.Duration]Result{
		0: Queued, 5 * time.Minute: Queued, -5 * time.Minute: Queued,
		5*time.Minute + time.Second: Unauthorized, -5*time.Minute - time.Second: Unauthorized, 48 * time.Hour: Unauthorized,
	} {
		h := newHouse(t, func(cfg *Config) { cfg.SigningTokens = []firerunner.Secret{signingToken} })
		_, got := h.deliver(signed(signingToken, "id", h.now.Add(off), hookBody(1, "pending", "null")))
		require.Equal(t, want, got, "%s", off)
	}
}

func TestTokens_Rotation(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.SigningTokens = []firerunner.Secret{signingToken, otherSigning} })
	for i, token := range []string{signingToken, otherSigning} {
		_, got := h.deliver(signed(token, fmt.Sprint(i), h.now, hookBody(int64(i+1), "pending", "null")))
		require.Equal(t, Queued, got)
	}
	h = newHouse(t, func(cfg *Config) { cfg.Tokens = []firerunner.Secret{"old-token", "new-token"} })
	for i, test := range []struct {
		token string
		want  Result
	}{
		{"old-token", Queued},
		{"new-token", Queued},
		{"", Unauthorized},
		{"old-toke", Unauthorized},
		{"old-token ", Unauthorized},
		{"old-token,new-token", Unauthorized},
		{strings.Repeat("x", 1<<16), Unauthorized},
	} {
		_, got := h.deliver(post(hookBody(int64(i+1), "pending", "null"), "X-Gitlab-Token", test.token))
		require.Equal(t, test.want, got, "%d", i)
	}
	h = newHouse(t, func(cfg *Config) { cfg.Tokens, cfg.AllowUnauthenticated = nil, true })
	_, got := h.deliver(post(hookBody(1, "pending", "null"), "X-Gitlab-Token", ""))
	require.Equal(t, Queued, got)
}

// No token, no signature and nothing that a stranger sends in their place shows up in the log or the answer.
func TestTokens_NotLogged(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.FailuresPerMinute = 3 })
	s := newHouse(t, func(cfg *Config) { cfg.SigningTokens = []firerunner.Secret{signingToken} })
	said := ""
	for range 5 {
		w, _ := h.deliver(post(hookBody(1, "pending", "null"), "X-Gitlab-Token", "guess-0123456789"))
		said += w.Body.String()
		w, _ = h.deliver(post("not json"))
		said += w.Body.String()
		w, _ = s.deliver(post(hookBody(1, "pending", "null"), "webhook-id", "x", "webhook-timestamp", "1744578123",
			"webhook-signature", "v1,"+strings.Repeat("Q", 43)+"="))
		said += w.Body.String()
	}
	said += h.log.String() + s.log.String()
	require.Contains(t, said, "webhook refused")
	for _, secret := range []string{secretToken, "guess-0123456789", signingToken[6:], strings.Repeat("Q", 43)} {
		require.NotContains(t, said, secret)
	}
}

func TestFailures_Limited(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	from := func(addr, token string) (*httptest.ResponseRecorder, Result) {
		r := post(hookBody(1, "pending", "null"), "X-Gitlab-Token", token)
		r.RemoteAddr = addr
		return h.deliver(r)
	}
	for range 100 {
		_, got := from("198.51.100.9:1", "wrong")
		require.Equal(t, Unauthorized, got)
	}
	w, got := from("198.51.100.9:2", "wrong")
	require.Equal(t, Limited, got)
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Equal(t, "60", w.Header().Get("Retry-After"))
	_, got = from("198.51.100.10:1", "wrong")
	require.Equal(t, Unauthorized, got, "another source")
	_, got = from("198.51.100.9:3", secretToken)
	require.Equal(t, Queued, got, "GitLab behind the same address still gets through")
	h.pass(59 * time.Second)
	w, got = from("198.51.100.9:4", "wrong")
	require.Equal(t, Limited, got)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	h.pass(time.Second)
	_, got = from("198.51.100.9:5", "wrong")
	require.Equal(t, Unauthorized, got, "a new minute")

	for i := range 100 {
		_, got = from(fmt.Sprintf("[2001:db8:1:2::%x]:1", i+1), "wrong")
		require.Equal(t, Unauthorized, got)
	}
	_, got = from("[2001:db8:1:2:ffff::1]:1", "wrong")
	require.Equal(t, Limited, got, "a /64 is one source")
	_, got = from("[2001:db8:1:3::1]:1", "wrong")
	require.Equal(t, Unauthorized, got)
}

// Whoever has many addresses cannot make the table grow, nor get more than one share once it is full.
func TestFailures_Bounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	f := newFailures(100, func() time.Time { return now })
	over := 0
	for i := range 3 * mostSources {
		if f.over(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})) {
			over++
		}
	}
	require.Len(t, f.counts, mostSources)
	require.Equal(t, 2*mostSources-100, over)
	now = now.Add(2 * time.Minute)
	require.False(t, f.over(netip.MustParseAddr("192.0.2.1")), "the table forgets")
	require.Len(t, f.counts, 1)
	require.False(t, f.over(netip.Addr{}))
	require.Positive(t, f.secondsLeft(netip.Addr{}))
}
