package intake

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// A custom template, another event or a field of another type must never cost GitLab a 4xx.
func TestPayload_Odd(t *testing.T) {
	t.Parallel()
	good := hookBody(1, "pending", "null")
	swap := func(old, with string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, with, 1)
	}
	for name, test := range map[string]struct {
		body   string
		event  string
		want   Result
		status int
	}{
		"as it is":           {good, "Job Hook", Queued, 200},
		"older name":         {good, "Build Hook", Queued, 200},
		"push":               {`{"object_kind":"push"}`, "Push Hook", Ignored, 200},
		"push, not JSON":     {`object_kind=push`, "Push Hook", Ignored, 200},
		"no event":           {good, "", Ignored, 200},
		"hostile event":      {good, strings.Repeat("\x1b[2J", 1000), Ignored, 200},
		"other kind":         {swap(`"build"`, `"pipeline"`), "Job Hook", Ignored, 200},
		"template":           {`{"text":"job 1 is pending"}`, "Job Hook", Ignored, 200},
		"array":              {`[1,2]`, "Job Hook", Ignored, 200},
		"string":             {`"hi"`, "Job Hook", Ignored, 200},
		"null":               {`null`, "Job Hook", Ignored, 200},
		"id text":            {swap(`"build_id":1`, `"build_id":"1"`), "Job Hook", Ignored, 200},
		"id zero":            {swap(`"build_id":1`, `"build_id":0`), "Job Hook", Ignored, 200},
		"id negative":        {swap(`"build_id":1`, `"build_id":-1`), "Job Hook", Ignored, 200},
		"id fraction":        {swap(`"build_id":1`, `"build_id":1.5`), "Job Hook", Ignored, 200},
		"id exponent":        {swap(`"build_id":1`, `"build_id":1e3`), "Job Hook", Ignored, 200},
		"id overflows":       {swap(`"build_id":1`, `"build_id":9223372036854775808`), "Job Hook", Ignored, 200},
		"id greatest":        {swap(`"build_id":1`, `"build_id":9223372036854775807`), "Job Hook", Queued, 200},
		"project missing":    {swap(`"project_id":380,`, ``), "Job Hook", Ignored, 200},
		"status number":      {swap(`"pending"`, `7`), "Job Hook", Ignored, 200},
		"status hostile":     {swap(`"pending"`, `"pending'; drop"`), "Job Hook", Ignored, 200},
		"status long":        {swap(`"pending"`, `"`+strings.Repeat("p", 100)+`"`), "Job Hook", Ignored, 200},
		"status missing":     {swap(`"build_status":"pending",`, ``), "Job Hook", Ignored, 200},
		"runner a list":      {hookBody(1, "pending", `[]`), "Job Hook", Queued, 200},
		"project a word":     {good[:strings.Index(good, `"project":`)] + `"project":"x"}`, "Job Hook", Queued, 200},
		"durations as words": {swap(`1095.588715`, `"soon"`), "Job Hook", Queued, 200},
		"garbage":            {`garbage`, "Job Hook", Malformed, 400},
		"cut off":            {good[:100], "Job Hook", Malformed, 400},
		"two values":         {good + good, "Job Hook", Malformed, 400},
		"empty":              {``, "Job Hook", Malformed, 400},
		"deep":               {strings.Repeat(`[`, 20000), "Job Hook", Malformed, 400},
		"deep, in a field":   {swap(`"test\n"`, strings.Repeat(`[`, 5000)+strings.Repeat(`]`, 5000)), "Job Hook", Queued, 200},
	} {
		h := newHouse(t, nil)
		w, got := h.deliver(post(test.body, "X-Gitlab-Event", test.event))
		require.Equal(t, test.want, got, name)
		require.Equal(t, test.status, w.Code, name)
		require.Equal(t, test.want == Queued, len(h.store.steps) == 1, name)
		require.NotContains(t, h.log.String(), "\x1b")
	}
}

func TestPayload_ProjectPath(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`"project":{"path_with_namespace":"group/sub/app"},"project_name":"Other / Name"`: "group/sub/app",
		`"project_name":"Group / Sub / App"`:                                              "Group/Sub/App",
		`"project":{"path_with_namespace":7},"project_name":"G / A"`:                      "G/A",
		`"project_name":"a\u001b[31m\u0000\nb\u202e"`:                                     "a[31mb",
		`"project_name":"` + strings.Repeat("ü", 2000) + `"`:                              strings.Repeat("ü", mostPath),
		`"project_name":"\ud800 \ufffd"`:                                                  " ",
		`"x":0`:                                                                           "",
	} {
		got, err := parse(http.Header{"X-Gitlab-Event": {"Job Hook"}},
			[]byte(`{"object_kind":"build","build_id":1,"project_id":2,"build_status":"created",`+body+`}`))
		require.NoError(t, err)
		require.Equal(t, want, got.path, body)
	}
}

func FuzzPayload(f *testing.F) {
	f.Add("Job Hook", []byte(hookBody(1, "pending", "null")))
	f.Add("Job Hook", []byte(hookBody(1, "running", `{"id":7}`)))
	f.Add("Build Hook", []byte(`{"object_kind":"build","build_id":1,"project_id":2,"build_status":"created","project":{"path_with_namespace":"a"}}`))
	f.Add("Push Hook", []byte(`x`))
	if files, err := filepath.Glob("testdata/*.json"); err == nil {
		for _, file := range files {
			body, err := os.ReadFile(file)
			require.NoError(f, err)
			f.Add("Job Hook", body)
		}
	}
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		got, err := parse(http.Header{"X-Gitlab-Event": {event}}, body)
		if err != nil {
			require.LessOrEqual(t, len(err.Error()), 300)
			return
		}
		require.Positive(t, got.jobID)
		require.Positive(t, got.projectID)
		require.GreaterOrEqual(t, got.runnerID, int64(0))
		require.True(t, statusLike(string(got.status)))
		require.LessOrEqual(t, len([]rune(got.path)), mostPath)
		require.False(t, strings.ContainsFunc(got.path, func(r rune) bool { return !unicode.IsPrint(r) }))
	})
}

// FuzzSignature looks for headers that get past the signature, or past a panic: nothing but the one signature over
// the one body may be taken.
func FuzzSignature(f *testing.F) {
	h := newHouse(f, func(cfg *Config) { cfg.SigningTokens = []firerunner.Secret{signingToken} })
	body := hookBody(1, "pending", "null")
	good := sign(signingToken, "id", h.now, body)
	f.Add("id", "1744578123", good, body)
	f.Add("id", "1744578123", "v1,abc "+good, body)
	f.Add("id.1744578123", "1744578123", good, body)
	f.Add("", "-1", "v1,", "")
	f.Fuzz(func(t *testing.T, id, timestamp, signature, sent string) {
		r := post(sent)
		r.Header["Webhook-Id"] = []string{id}
		r.Header["Webhook-Timestamp"] = []string{timestamp}
		r.Header["Webhook-Signature"] = []string{signature}
		_, err := (&reading{in: h.Intake}).authentic(r)
		if genuine := id == "id" && timestamp == "1744578123" && sent == body && strings.Contains(signature, good); !genuine {
			require.ErrorIs(t, err, errNotAuthentic)
		}
		require.NotPanics(t, func() { _ = h.source(r) })
	})
}
