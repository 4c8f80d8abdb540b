package gitlab

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestQuota(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	unix := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).Unix(), 10) }
	type answer map[string]string
	for name, c := range map[string]struct {
		status  int
		answers []answer
		want    firerunner.Quota
	}{
		"None":      {200, []answer{{}}, firerunner.Quota{}},
		"OK":        {200, []answer{{"RateLimit-Limit": "600", "RateLimit-Remaining": "580", "RateLimit-Reset": unix(40 * time.Second)}}, firerunner.Quota{Limit: 600, Remaining: 580, Reset: now.Add(40 * time.Second)}},
		"Over":      {200, []answer{{"RateLimit-Limit": "600", "RateLimit-Remaining": "580", "RateLimit-Reset": unix(-time.Second)}}, firerunner.Quota{}},
		"Nonsense":  {200, []answer{{"RateLimit-Limit": "-1", "RateLimit-Remaining": "x", "RateLimit-Reset": "soon"}}, firerunner.Quota{}},
		"TooMany":   {200, []answer{{"RateLimit-Limit": "10", "RateLimit-Remaining": "99", "RateLimit-Reset": unix(time.Minute)}}, firerunner.Quota{Limit: 10, Remaining: 10, Reset: now.Add(time.Minute)}},
		"FarAway":   {200, []answer{{"RateLimit-Limit": "10", "RateLimit-Remaining": "9", "RateLimit-Reset": "99999999999999"}}, firerunner.Quota{Limit: 10, Remaining: 9, Reset: now.Add(time.Hour)}},
		"OtherDate": {200, []answer{{"RateLimit-Limit": "10", "RateLimit-Remaining": "9", "RateLimit-Reset": unix(time.Hour + 20*time.Second), "Date": now.Add(time.Hour).UTC().Format(http.TimeFormat)}}, firerunner.Quota{Limit: 10, Remaining: 9, Reset: now.Add(20 * time.Second)}},
		"Tightest": {200, []answer{
			{"RateLimit-Name": "a", "RateLimit-Limit": "600", "RateLimit-Remaining": "60", "RateLimit-Reset": unix(time.Minute)},
			{"RateLimit-Name": "b", "RateLimit-Limit": "60", "RateLimit-Remaining": "50", "RateLimit-Reset": unix(time.Minute)},
		}, firerunner.Quota{Limit: 600, Remaining: 60, Reset: now.Add(time.Minute)}},
		"Refused":     {429, []answer{{"RateLimit-Limit": "600", "RateLimit-Remaining": "0", "Retry-After": "30"}}, firerunner.Quota{Limit: 600, Reset: now.Add(30 * time.Second)}},
		"RefusedBare": {429, []answer{{}}, firerunner.Quota{Limit: 1, Reset: now.Add(time.Minute)}},
	} {
		t.Run(name, func(t *testing.T) {
			var q quotas
			for _, a := range c.answers {
				h := http.Header{}
				for k, v := range a {
					h.Set(k, v)
				}
				q.note(&http.Response{StatusCode: c.status, Header: h}, now)
			}
			got := q.tightest(now)
			require.Equal(t, c.want.Limit, got.Limit)
			require.Equal(t, c.want.Remaining, got.Remaining)
			require.True(t, c.want.Reset.Equal(got.Reset), "%v", got.Reset)
			require.Zero(t, q.tightest(now.Add(2*time.Hour)), "its window is over")
		})
	}
}

// The emulator's limits are read as GitLab's are, by every call, and its projects are listed page by page.
func TestAbilities_Emulator_OK(t *testing.T) {
	srv, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	var made []int64
	for _, path := range []string{"g/a", "g/b", "g/c", "h/d", "h/e"} {
		p, err := srv.CreateProject(path, map[string]string{"README.md": "x\n"})
		require.NoError(t, err)
		made = append(made, p.ID)
	}
	c, err := New(Config{URL: srv.URL(), Token: StaticToken(firerunner.Secret(srv.CreateToken("read_api"))), PageSize: 2})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.Zero(t, c.Quota())

	var listed []int64
	pages, after := 0, int64(0)
	for {
		page, err := c.MemberProjects(t.Context(), after)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		require.LessOrEqual(t, len(page), 2)
		for _, p := range page {
			require.NotEmpty(t, p.Path)
			listed, after = append(listed, p.ID), p.ID
		}
		pages++
	}
	require.Equal(t, made, listed)
	require.Equal(t, 3, pages)

	srv.SetRateLimit(gitlabtest.RateLimit{Name: "jobs", Path: "/api/v4/projects/*/jobs", Limit: 3})
	for left := 2; left >= 0; left-- {
		_, err := c.PendingJobs(t.Context(), made[0])
		require.NoError(t, err)
		require.Equal(t, 3, c.Quota().Limit)
		require.Equal(t, left, c.Quota().Remaining)
		require.WithinDuration(t, time.Now(), c.Quota().Reset, 61*time.Second)
	}
	_, err = c.PendingJobs(t.Context(), made[0])
	require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err))
	require.Zero(t, c.Quota().Remaining)

	_, err = srv.AddHook(made[0], gitlabtest.Hook{URL: "https://firerunner.example.com/webhook", JobEvents: true})
	require.NoError(t, err)
	hooks, err := c.Webhooks(t.Context(), made[0])
	require.NoError(t, err)
	require.Len(t, hooks, 1)
	require.True(t, hooks[0].JobEvents)
}
