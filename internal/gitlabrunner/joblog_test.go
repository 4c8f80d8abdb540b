package gitlabrunner

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseLineOK(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       Event
	}{
		{"config read", `{"level":"info","msg":"Starting runner for https://gitlab.test with token abc ...","time":"t"}`, Event{Kind: Ready}},
		{
			"took, 19.x", `{"job":1001,"job_name":"test","level":"info","msg":"Checking for jobs... received","repo_url":"x","runner":"abc"}`,
			Event{Kind: TookJob, Job: 1001},
		},
		{"took, old padding", `{"job":7,"level":"info","msg":"Checking for jobs...   received   "}`, Event{Kind: TookJob, Job: 7}},
		{"nothing", `{"level":"debug","msg":"Checking for jobs... no content","status":"204 No Content"}`, Event{}},
		{"remote state is not the result", `{"code":202,"job":1,"job-status":"success","level":"info","msg":"Appending trace to coordinator...ok"}`, Event{}},
		{
			"success", `{"duration_s":1.5,"job":1001,"job-status":"success","level":"info","msg":"Job succeeded"}`,
			Event{Kind: JobDone, Job: 1001, Success: true},
		},
		{"success, old", `{"duration":1.5,"job":3,"level":"info","msg":"Job succeeded","project":1}`, Event{Kind: JobDone, Job: 3, Success: true}},
		{
			"failed", `{"error":"exit status 3","exit_code":3,"failure_reason":"script_failure","job":5,"job-status":"failed","level":"warning","msg":"Job failed: exit status 3"}`,
			Event{Kind: JobDone, Job: 5, Failure: "script_failure", ExitCode: 3},
		},
		{
			"failed, old", `{"job":5,"level":"warning","msg":"Job failed: exit status 17"}`,
			Event{Kind: JobDone, Job: 5, Failure: "script_failure", ExitCode: 17},
		},
		{
			"failed, old, in the error", `{"job":5,"level":"warning","msg":"Job failed","error":"prepare environment: exit code 2"}`,
			Event{Kind: JobDone, Job: 5, Failure: "script_failure", ExitCode: 2},
		},
		{
			"system failure, old", `{"job":5,"level":"error","msg":"Job failed (system failure): no space"}`,
			Event{Kind: JobDone, Job: 5, Failure: "runner_system_failure"},
		},
		{
			"odd type of one field", `{"job":5,"level":"error","msg":"Job failed: aborted","error":{"a":1},"failure_reason":"runner_interrupted"}`,
			Event{Kind: JobDone, Job: 5, Failure: "runner_interrupted"},
		},
		{
			"absurd reason", `{"job":5,"level":"error","msg":"Job failed: x","failure_reason":"` + strings.Repeat("x", 100) + `"}`,
			Event{Kind: JobDone, Job: 5, Failure: "script_failure"},
		},
		{
			"no job", `{"level":"info","msg":"This runner has not received a job in 60 seconds, so now exiting"}`,
			Event{Kind: NoJob, Text: "This runner has not received a job in 60 seconds, so now exiting"},
		},
		{"refused", `{"level":"info","msg":"Runner is not healthy!"}`, Event{Kind: Refused, Text: "GitLab refuses the runner's credential"}},
		{
			"complaint", `{"error":"x509: unknown authority","level":"warning","msg":"Checking for jobs... failed","status":"couldn't execute POST"}`,
			Event{Kind: Complain, Text: "Checking for jobs... failed: x509: unknown authority (couldn't execute POST)"},
		},
		{"failure once more", `{"error":"exit status 3","level":"error","msg":"Failed to process build"}`, Event{}},
		{
			"a job cannot be named without a number", `{"job":"abc","level":"info","msg":"Job succeeded"}`,
			Event{Kind: Complain, Text: `{"job":"abc","level":"info","msg":"Job succeeded"}`},
		},
		{"panic", "panic: runtime error\x1b[0m", Event{Kind: Complain, Text: "panic: runtime error\x1b[0m"}},
		{"no JSON", "\x00", Event{Kind: Complain, Text: "\x00"}},
	} {
		require.Equal(t, tc.want, ParseLine([]byte(tc.line)), tc.name)
	}
}

func TestReadLogOK(t *testing.T) {
	var got []Event
	ReadLog(strings.NewReader(
		`{"job":1,"level":"info","msg":"Job succeeded"}`+"\n\n"+
			strings.Repeat("x", 3*MaxLine)+"\n"+
			`{"job":2,"level":"info","msg":"Job succeeded"}`), func(e Event) { got = append(got, e) })
	require.Equal(t, []Event{{Kind: JobDone, Job: 1, Success: true}, {Kind: JobDone, Job: 2, Success: true}}, got)
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"job":5,"level":"warning","msg":"Job failed: exit status 17","exit_code":"9"}`))
	f.Add([]byte(`{"job":1e5,"msg":"Job succeeded"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e := ParseLine(line)
		require.LessOrEqual(t, len(e.Failure), 64)
		require.GreaterOrEqual(t, e.Job, int64(0))
		if e.Kind == TookJob || e.Kind == JobDone {
			require.Positive(t, e.Job)
		}
	})
}
