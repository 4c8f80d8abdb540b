package guest

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestDecodeFromGuestOK(t *testing.T) {
	for _, tc := range []struct {
		line string
		want FromGuest
	}{
		{
			`{"v":1,"n":1,"kind":"hello","agent":"1.2.3","kernel":"6.1.0-56-cloud-amd64","new_field":[1,{}]}`,
			FromGuest{Number: 1, Kind: firerunner.ReportHello, Agent: "1.2.3", Kernel: "6.1.0-56-cloud-amd64"},
		},
		{
			`{"v":1,"n":1,"kind":"hello","clock_ns":1795465437000000001}`,
			FromGuest{Number: 1, Kind: firerunner.ReportHello, Clock: time.Unix(1795465437, 1)},
		},
		{`{"v":1,"n":1,"kind":"hello","clock_ns":-5}`, FromGuest{Number: 1, Kind: firerunner.ReportHello}},
		{`{"v":1,"n":2,"kind":"started","boot_id":"aa-bb"}`, FromGuest{Number: 2, Kind: firerunner.ReportStarted, BootID: "aa-bb"}},
		{`{"v":1,"n":4,"kind":"took_job","job":5,"job_key":"aB_-9"}`, FromGuest{Number: 4, Kind: firerunner.ReportTookJob, JobID: 5, JobKey: "aB_-9"}},
		{`{"v":1,"n":4,"kind":"notice","job_key":"aB_-9"}`, FromGuest{Number: 4, Kind: firerunner.ReportNotice}},
		{`{"v":1,"n":3,"kind":"took_job","job":9007199254740993}`, FromGuest{Number: 3, Kind: firerunner.ReportTookJob, JobID: 9007199254740993}},
		{
			`{"v":1,"n":4,"kind":"job_done","job":5,"failure":"script_failure","exit_code":3}`,
			FromGuest{Number: 4, Kind: firerunner.ReportJobDone, JobID: 5, Failure: "script_failure", ExitCode: 3},
		},
		{`{"v":1,"n":4,"kind":"job_done","job":5,"success":true}`, FromGuest{Number: 4, Kind: firerunner.ReportJobDone, JobID: 5, Success: true}},
		{`{"v":1,"kind":"notice","message":"a\u001b[31mb\nc\u202e"}`, FromGuest{Kind: firerunner.ReportNotice, Message: "a[31mb c"}},
		{
			`{"v":1,"kind":"runner_exited","exit_code":-1,"message":"ended by SIGKILL","job":7}`,
			FromGuest{Kind: firerunner.ReportRunnerExited, ExitCode: -1, Message: "ended by SIGKILL"},
		},
		{`{"v":1,"kind":"attach","id":"vm-1","token":"t"}`, FromGuest{Kind: GuestAttach, ID: "vm-1", Token: "t"}},
		{`{"v":1,"kind":"attach","id":"vm-1","session":"s"}`, FromGuest{Kind: GuestAttach, ID: "vm-1", Session: "s"}},
		{`{"v":1,"kind":"alive","token":"t"}`, FromGuest{Kind: GuestAlive}},
		{`{"v":1,"kind":"console","console":"AAE="}`, FromGuest{Kind: GuestConsole, Console: []byte{0, 1}}},
		{`{"v":1,"kind":"error","message":"no disk"}`, FromGuest{Kind: firerunner.ReportError, Message: "no disk"}},
	} {
		got, err := DecodeFromGuest([]byte(tc.line))
		require.NoError(t, err, tc.line)
		require.Equal(t, tc.want, got, tc.line)
	}
}

func TestDecodeFromGuestErrInvalid(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{``, "not a message"},
		{`[]`, "not a message"},
		{`null`, "version 0"},
		{`{"v":2,"kind":"hello"}`, "version 2"},
		{`{"v":1,"kind":"exited"}`, `unknown kind "exited"`}, // only a driver may say so
		{`{"v":1,"kind":"` + strings.Repeat("x", 100) + `"}`, "unknown kind"},
		{`{"v":1,"kind":"took_job"}`, "job id"},
		{`{"v":1,"kind":"took_job","job":-4}`, "job id"},
		{`{"v":1,"kind":"took_job","job":1e30}`, "not a message"},
		{`{"v":1,"kind":"started","n":-1}`, "number"},
		{`{"v":1,"kind":"started","boot_id":"a\u0000"}`, "boot id"},
		{`{"v":1,"kind":"job_done","job":1,"exit_code":4294967296}`, "exit code"},
		{`{"v":1,"kind":"job_done","job":1,"failure":"<script>"}`, "failure reason"},
		{`{"v":1,"kind":"hello","agent":"` + strings.Repeat("9", 200) + `"}`, "hello"},
		{`{"v":1,"kind":"attach","id":"vm-1"}`, "attach"},
		{`{"v":1,"kind":"attach","id":"vm-1","token":"t","session":"s"}`, "attach"},
		{`{"v":1,"kind":"attach","id":"../x","token":"t"}`, "attach"},
		{`{"v":1,"kind":"attach","id":"-x","token":"t"}`, "attach"},
		{`{"v":1,"kind":"attach","id":"x","token":"a b"}`, "attach"},
		{`{"v":1,"kind":"attach","id":"x","token":"` + strings.Repeat("t", 300) + `"}`, "attach"},
		{`{"v":1,"kind":"console","console":"` + strings.Repeat("AAAA", MaxConsole/3+1) + `"}`, "too much"},
		{`{"v":1,"kind":"notice","message":"` + strings.Repeat("m", MaxGuestLine) + `"}`, "too long"},
	} {
		_, err := DecodeFromGuest([]byte(tc.line))
		require.ErrorContains(t, err, tc.want, "%.80s", tc.line)
	}
}

func TestFromGuestRoundTripOK(t *testing.T) {
	sent := FromGuest{Number: 7, Kind: firerunner.ReportNotice, Message: strings.Repeat("é", MaxMessage)}
	line, err := EncodeFromGuest(sent)
	require.NoError(t, err)
	got, err := DecodeFromGuest(line)
	require.NoError(t, err)
	require.LessOrEqual(t, len(got.Message), MaxMessage)
	require.True(t, strings.HasPrefix(got.Message, "éé"))

	_, err = EncodeFromGuest(FromGuest{Kind: firerunner.ReportHello, Agent: strings.Repeat("a", MaxGuestLine)})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
}

func testStart() firerunner.GuestStart {
	return firerunner.GuestStart{
		GitLabURL: "https://gitlab.test/", Token: "glrt-secret", CA: "PEM", Name: "r", MachineID: strings.Repeat("a", 32),
		Hostname: "h", Network: firerunner.GuestNetwork{Address: "10.42.0.2/24", Gateway: "10.42.0.1", DNS: "10.42.0.1", MAC: "52:54:00:12:34:56", MTU: 1500},
		WaitTimeout: 90 * time.Second, OutputKiB: 4096, RunnerID: "runner1", SealTo: "aB_-9",
	}
}

func TestFromHostRoundTripOK(t *testing.T) {
	for _, sent := range []FromHost{
		{Kind: HostPing},
		{Kind: HostTime, At: time.Unix(1795465437, 5)},
		{Kind: HostAck, Number: 12},
		{Kind: HostOrder, Order: firerunner.OrderFinish},
		{Kind: HostOrder, Order: firerunner.OrderStop},
		{Kind: HostStart, At: time.Unix(1795465437, 0), Entropy: []byte("0123456789"), Start: testStart()},
		{Kind: HostStart, At: time.Unix(1795465437, 0), Entropy: []byte("0123456789"), Start: testStart(), Session: "s"},
		{Kind: HostResume, At: time.Unix(1795465437, 0), Number: 3},
		{Kind: HostRefused, Code: firerunner.Conflict},
	} {
		line, err := EncodeFromHost(sent)
		require.NoError(t, err)
		require.Equal(t, byte('\n'), line[len(line)-1])
		got, err := DecodeFromHost(line)
		require.NoError(t, err, string(sent.Kind))
		require.True(t, sent.At.Equal(got.At))
		got.At, sent.At = time.Time{}, time.Time{}
		require.Equal(t, sent, got)
	}
}

func TestDecodeFromHostErrInvalid(t *testing.T) {
	for _, line := range []string{
		``, `{}`, `{"v":1}`, `{"v":1,"kind":"reboot"}`, `{"v":1,"kind":"order","order":"kill"}`, `{"v":1,"kind":"time"}`,
		`{"v":1,"kind":"start","unix_ns":1}`, `{"v":1,"kind":"start","start":{}}`, `{"v":1,"kind":"time","unix_ns":-1}`,
		`{"v":1,"kind":"start","unix_ns":1,"start":{"wait_timeout_s":-1}}`,
		`{"v":1,"kind":"start","unix_ns":1,"start":{},"session":"a b"}`, `{"v":1,"kind":"resume","n":1}`, `{"v":1,"kind":"resume","unix_ns":1,"n":-1}`,
		`{"v":1,"kind":"refused"}`, `{"v":1,"kind":"refused","code":"<"}`,
	} {
		_, err := DecodeFromHost([]byte(line))
		require.Error(t, err, line)
	}
	_, err := EncodeFromHost(FromHost{Kind: HostStart, At: time.Now(), Start: firerunner.GuestStart{CA: strings.Repeat("x", MaxHostLine)}})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	_, err = DecodeFromHost(make([]byte, MaxHostLine+1))
	require.ErrorContains(t, err, "too long")
}

func TestTextOK(t *testing.T) {
	for _, tc := range []struct {
		in    string
		limit int
		want  string
	}{
		{"plain", 100, "plain"},
		{"  a\tb\r\nc  ", 100, "a b  c"},
		{"\x1b]0;title\x07x", 100, "]0;titlex"},
		{"bad\xff\xfe", 100, "bad\uFFFD"},
		{"abcdef", 5, "ab…"},
		{"ééééé", 8, "éé…"},
		{"abcdef", 2, ""},
	} {
		require.Equal(t, tc.want, Text(tc.in, tc.limit), "%q", tc.in)
	}
}

func TestLinesOK(t *testing.T) {
	long := strings.Repeat("x", 100)
	in := newLines(strings.NewReader("one\r\n"+long+"\n\ntwo\nunfinished"), 32)
	for _, want := range []string{"one", "TOO LONG", "", "two", "END"} {
		line, err := in.next()
		switch want {
		case "TOO LONG":
			require.ErrorIs(t, err, errLineTooLong)
		case "END":
			require.Error(t, err)
			require.NotErrorIs(t, err, errLineTooLong)
		default:
			require.NoError(t, err)
			require.Equal(t, want, string(line))
		}
	}
	_, err := newLines(strings.NewReader(long), 32).next()
	require.NotErrorIs(t, err, errLineTooLong) // the end, in the middle of a line that is too long
	require.Error(t, err)
}

// A line may be longer than what is kept for lines, up to the limit, and what was read of it is still right when the next
// long one has begun to come.
func TestLinesBeyondTheBuffer(t *testing.T) {
	const limit = 4 * usualLine
	most, over := strings.Repeat("m", limit-1), strings.Repeat("o", limit)
	in := newLines(iotest.OneByteReader(strings.NewReader(most+"\nshort\n"+over+"\n"+most+"\n"+over)), limit)
	for _, want := range []string{most, "short", "", most} {
		line, err := in.next()
		if want == "" {
			require.ErrorIs(t, err, errLineTooLong)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, string(line))
	}
	_, err := in.next()
	require.ErrorIs(t, err, io.EOF)
}

func FuzzDecodeFromGuest(f *testing.F) {
	f.Add([]byte(`{"v":1,"n":4,"kind":"job_done","job":5,"failure":"script_failure","exit_code":3}`))
	f.Add([]byte(`{"v":1,"n":4,"kind":"took_job","job":5,"job_key":"aB_-9"}`))
	f.Add([]byte(`{"v":1,"kind":"notice","message":"\u202e\ud800"}`))
	f.Add([]byte(`{"v":1,"kind":"attach","id":"vm-1","token":"t"}`))
	f.Add([]byte(`{"v":1,"kind":"console","console":"AAE="}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := DecodeFromGuest(line)
		if err != nil {
			require.LessOrEqual(t, len(err.Error()), 200)
			return
		}
		require.True(t, m.JobKey.Valid())
		for _, text := range []string{m.Agent, m.Kernel, m.BootID, m.Failure, m.Message, string(m.Kind), m.ID, m.Token.Reveal(), m.Session.Reveal()} {
			require.LessOrEqual(t, len(text), MaxMessage)
			require.True(t, utf8.ValidString(text))
			require.NotContains(t, text, "\n")
		}
		again, err := EncodeFromGuest(m)
		require.NoError(t, err)
		same, err := DecodeFromGuest(again)
		require.NoError(t, err)
		require.Equal(t, m, same, string(again))
	})
}

func FuzzDecodeFromHost(f *testing.F) {
	line, _ := EncodeFromHost(FromHost{Kind: HostStart, At: time.Unix(1, 0), Entropy: []byte("x"), Start: testStart()})
	f.Add(line)
	f.Add([]byte(`{"v":1,"kind":"order","order":"stop"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := DecodeFromHost(line)
		if err == nil && m.Kind == HostRefused {
			require.NotEmpty(t, m.Code)
		}
		if err == nil && m.Kind == HostOrder {
			require.Contains(t, []firerunner.GuestOrder{firerunner.OrderFinish, firerunner.OrderStop}, m.Order)
		}
	})
}
