package control

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestTrialAfter(t *testing.T) {
	c := Config{GiveUpAfter: 3, GiveUpFor: time.Hour}
	now := time.Unix(1_800_000_000, 0)
	before := trial{failures: 2, failedAt: now.Add(-time.Minute), digest: "a"}
	for name, tt := range map[string]struct {
		before   trial
		placedAt time.Time
		digest   string
		failures int
		pause    time.Duration
		news     bool
		given    bool
	}{
		"First":    {trial{}, time.Time{}, "a", 1, 2 * time.Second, true, false},
		"Second":   {trial{failures: 1, failedAt: before.failedAt, digest: "a"}, now, "a", 2, 4 * time.Second, true, false},
		"Together": {before, now.Add(-2 * time.Minute), "a", 2, 4 * time.Second, false, false},
		"GivenUp":  {before, now, "a", 3, time.Hour, true, true},
		"Again":    {trial{failures: 3, failedAt: before.failedAt, digest: "a", given: true}, now, "a", 4, time.Hour, true, true},
		"NewImage": {before, now, "b", 1, 2 * time.Second, true, false},
		"NoDigest": {before, now, "", 3, time.Hour, true, true}, // it did not come so far as to know the image
		"LongAgo":  {trial{failures: 2, failedAt: now.Add(-2 * time.Hour), digest: "a"}, now, "a", 1, 2 * time.Second, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			next, news := tt.before.after(tt.placedAt, now, tt.digest, c)
			require.Equal(t, tt.failures, next.failures)
			require.Equal(t, now.Add(tt.pause), next.until)
			require.Equal(t, tt.news, news)
			require.Equal(t, tt.given, next.given)
		})
	}
	next, _ := trial{failures: 60, failedAt: now}.after(now, now, "", Config{GiveUpAfter: 100})
	require.Equal(t, now.Add(longestPause), next.until)
}

func TestTrialsEverywhere(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	hosts := []firerunner.Host{{Name: "a"}, {Name: "b"}, {Name: "c", Draining: true}, {Name: "d", Lost: true}, {Name: "e", Trouble: "x"}}
	var all trials
	_, failed := all.everywhere(now, "i", hosts)
	require.False(t, failed)
	all.set(trialPair{"i", "a"}, trial{failures: 1, until: now.Add(time.Minute)})
	_, failed = all.everywhere(now, "i", hosts)
	require.False(t, failed, "b may do")
	all.set(trialPair{"i", "b"}, trial{failures: 1, until: now.Add(time.Second)})
	until, failed := all.everywhere(now, "i", hosts)
	require.True(t, failed)
	require.Equal(t, now.Add(time.Second), until)
	_, failed = all.everywhere(now, "j", hosts)
	require.False(t, failed)
	_, failed = all.everywhere(now, "i", hosts[2:])
	require.False(t, failed, "there is no host: placement says so")
}
