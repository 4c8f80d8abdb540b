package gitlabrunner

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

const testToken = "glrt-of-a-test-only"

func TestSettingsOK(t *testing.T) {
	start := firerunner.GuestStart{
		GitLabURL: "https://gitlab.test/sub", Token: testToken, Name: "a \"name\"\\\n\x00\x7f", CA: "PEM", OutputKiB: 8192, WaitTimeout: 90 * time.Second,
	}
	config, err := Settings(start)
	require.NoError(t, err)
	for _, want := range []string{
		`url = "https://gitlab.test/sub"`, `token = "` + testToken + `"`, `executor = "shell"`, `tls-ca-file = "/run/firerunner/ca.pem"`,
		`output_limit = 8192`, `name = "a \"name\"\\\n\u0000\u007F"`, "[[runners]]", `builds_dir = "/builds"`,
	} {
		require.Contains(t, config, want)
	}
	require.Equal(t, 1, strings.Count(config, "pre_build_script"))
	args := Arguments(start, SettingsFile)
	require.Contains(t, strings.Join(args, " "), "--max-builds 1 --wait-timeout 90")
	require.NotContains(t, strings.Join(args, " "), testToken)

	start.CA, start.OutputKiB, start.WaitTimeout = "", 0, 0
	config, err = Settings(start)
	require.NoError(t, err)
	require.NotContains(t, config, "tls-ca-file")
	require.NotContains(t, config, "output_limit")
	require.NotContains(t, strings.Join(Arguments(start, SettingsFile), " "), "wait-timeout")
}

func TestSettingsErrInvalid(t *testing.T) {
	for _, start := range []firerunner.GuestStart{
		{GitLabURL: "ftp://x", Token: "t", Name: "n"},
		{GitLabURL: "https://", Token: "t", Name: "n"},
		{GitLabURL: "://", Token: "t", Name: "n"},
		{GitLabURL: "https://x", Name: "n"},
		{GitLabURL: "https://x", Token: "t"},
	} {
		_, err := Settings(start)
		require.Error(t, err)
		require.NotContains(t, err.Error(), testToken)
	}
}

func TestReportOK(t *testing.T) {
	for _, tc := range []struct {
		event Event
		want  firerunner.GuestReport
	}{
		{Event{Kind: TookJob, Job: 7}, firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: 7}},
		{
			Event{Kind: JobDone, Job: 7, Failure: "script_failure", ExitCode: 3},
			firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: 7, Failure: "script_failure", ExitCode: 3},
		},
		{Event{Kind: Refused, Text: "no"}, firerunner.GuestReport{Kind: firerunner.ReportError, Message: "no"}},
		{Event{Kind: Complain, Text: "hm"}, firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "gitlab-runner: hm"}},
		{Event{Kind: Ready}, firerunner.GuestReport{}},
		{Event{Kind: NoJob, Text: "none"}, firerunner.GuestReport{}},
	} {
		got, ok := tc.event.Report()
		require.Equal(t, tc.want, got)
		require.Equal(t, tc.want.Kind != "", ok)
	}
}

// TestRelayedSettingsOK: gitlab-runner speaks to the relay, git to GitLab, and the job knows GitLab's CA.
func TestRelayedSettingsOK(t *testing.T) {
	start := firerunner.GuestStart{GitLabURL: "https://gitlab.test/sub", Token: testToken, Name: "r", CA: "PEM"}
	direct, err := Settings(start)
	require.NoError(t, err)
	relayed, err := RelayedSettings(start, "http://127.0.0.1:4711/sub", CAFile)
	require.NoError(t, err)
	require.NotContains(t, direct, "clone_url")
	require.Equal(t, direct, strings.Replace(relayed, `  url = "http://127.0.0.1:4711/sub"
  clone_url = "https://gitlab.test/sub"
  environment = ["CI_SERVER_TLS_CA_FILE=/run/firerunner/ca.pem"]
`, `  url = "https://gitlab.test/sub"
`, 1), "and nothing else differs")
	relayed, err = RelayedSettings(start, "http://127.0.0.1:4711/sub", "")
	require.NoError(t, err)
	require.NotContains(t, relayed, "environment")
}
