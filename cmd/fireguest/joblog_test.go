package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseLogLineOK(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       event
	}{
		{"config read", `{"level":"info","msg":"Starting runner for https://gitlab.test with token abc ...","time":"t"}`, event{kind: eventReady}},
		{
			"took, 19.x", `{"job":1001,"job_name":"test","level":"info","msg":"Checking for jobs... received","repo_url":"x","runner":"abc"}`,
			event{kind: eventTookJob, job: 1001},
		},
		{"took, old padding", `{"job":7,"level":"info","msg":"Checking for jobs...   received   "}`, event{kind: eventTookJob, job: 7}},
		{"nothing", `{"level":"debug","msg":"Checking for jobs... no content","status":"204 No Content"}`, event{}},
		{"remote state is not the result", `{"code":202,"job":1,"job-status":"success","level":"info","msg":"Appending trace to coordinator...ok"}`, event{}},
		{
			"success", `{"duration_s":1.5,"job":1001,"job-status":"success","level":"info","msg":"Job succeeded"}`,
			event{kind: eventJobDone, job: 1001, success: true},
		},
		{"success, old", `{"duration":1.5,"job":3,"level":"info","msg":"Job succeeded","project":1}`, event{kind: eventJobDone, job: 3, success: true}},
		{
			"failed", `{"error":"exit status 3","exit_code":3,"failure_reason":"script_failure","job":5,"job-status":"failed","level":"warning","msg":"Job failed: exit status 3"}`,
			event{kind: eventJobDone, job: 5, failure: "script_failure", exitCode: 3},
		},
		{
			"failed, old", `{"job":5,"level":"warning","msg":"Job failed: exit status 17"}`,
			event{kind: eventJobDone, job: 5, failure: "script_failure", exitCode: 17},
		},
		{
			"failed, old, in the error", `{"job":5,"level":"warning","msg":"Job failed","error":"prepare environment: exit code 2"}`,
			event{kind: eventJobDone, job: 5, failure: "script_failure", exitCode: 2},
		},
		{
			"system failure, old", `{"job":5,"level":"error","msg":"Job failed (system failure): no space"}`,
			event{kind: eventJobDone, job: 5, failure: "runner_system_failure"},
		},
		{
			"odd type of one field", `{"job":5,"level":"error","msg":"Job failed: aborted","error":{"a":1},"failure_reason":"runner_interrupted"}`,
			event{kind: eventJobDone, job: 5, failure: "runner_interrupted"},
		},
		{
			"absurd reason", `{"job":5,"level":"error","msg":"Job failed: x","failure_reason":"` + strings.Repeat("x", 100) + `"}`,
			event{kind: eventJobDone, job: 5, failure: "script_failure"},
		},
		{
			"no job", `{"level":"info","msg":"This runner has not received a job in 60 seconds, so now exiting"}`,
			event{kind: eventNoJob, text: "This runner has not received a job in 60 seconds, so now exiting"},
		},
		{"refused", `{"level":"info","msg":"Runner is not healthy!"}`, event{kind: eventRefused, text: "GitLab refuses the runner's credential"}},
		{
			"complaint", `{"error":"x509: unknown authority","level":"warning","msg":"Checking for jobs... failed","status":"couldn't execute POST"}`,
			event{kind: eventComplain, text: "Checking for jobs... failed: x509: unknown authority (couldn't execute POST)"},
		},
		{"failure once more", `{"error":"exit status 3","level":"error","msg":"Failed to process build"}`, event{}},
		{
			"a job cannot be named without a number", `{"job":"abc","level":"info","msg":"Job succeeded"}`,
			event{kind: eventComplain, text: `{"job":"abc","level":"info","msg":"Job succeeded"}`},
		},
		{"panic", "panic: runtime error\x1b[0m", event{kind: eventComplain, text: "panic: runtime error[0m"}},
		{"empty", "\x00", event{}},
	} {
		require.Equal(t, tc.want, parseLogLine([]byte(tc.line)), tc.name)
	}
}

func TestReadLogOK(t *testing.T) {
	var got []event
	readLog(strings.NewReader(
		`{"job":1,"level":"info","msg":"Job succeeded"}`+"\n\n"+
			strings.Repeat("x", 3*maxLogLine)+"\n"+
			`{"job":2,"level":"info","msg":"Job succeeded"}`), func(e event) { got = append(got, e) })
	require.Equal(t, []event{{kind: eventJobDone, job: 1, success: true}, {kind: eventJobDone, job: 2, success: true}}, got)
}

func FuzzParseLogLine(f *testing.F) {
	f.Add([]byte(`{"job":5,"level":"warning","msg":"Job failed: exit status 17","exit_code":"9"}`))
	f.Add([]byte(`{"job":1e5,"msg":"Job succeeded"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e := parseLogLine(line)
		require.LessOrEqual(t, len(e.failure), 64)
		require.GreaterOrEqual(t, e.job, int64(0))
		if e.kind == eventTookJob || e.kind == eventJobDone {
			require.Positive(t, e.job)
		}
	})
}
