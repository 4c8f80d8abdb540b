package reportlog_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/reportlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var exited = firerunner.GuestReport{Kind: firerunner.ReportExited, Message: "gone"}

func collect(t *testing.T, l *reportlog.Log, after int64) (got []firerunner.GuestReport) {
	t.Helper()
	require.NoError(t, l.Follow(t.Context(), after, func(r firerunner.GuestReport) error {
		got = append(got, r)
		return nil
	}))
	return got
}

func TestLogOK(t *testing.T) {
	var sink bytes.Buffer
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := reportlog.New(reportlog.Config{Sink: &sink, Now: func() time.Time { return now }})
	l.Guest(firerunner.GuestReport{Seq: 99, Kind: firerunner.ReportHello})
	l.Guest(firerunner.GuestReport{Kind: firerunner.ReportExited, Message: "the guest says this, not the driver"})
	l.Guest(firerunner.GuestReport{Kind: "unheard-of"})
	l.Guest(firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: 7, Success: true})
	l.Driver(exited)
	l.Driver(exited)
	l.Guest(firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "too late"})

	got := collect(t, l, 0)
	require.Equal(t, []firerunner.GuestReport{
		{Seq: 1, At: now, Kind: firerunner.ReportHello},
		{Seq: 2, At: now, Kind: firerunner.ReportJobDone, JobID: 7, Success: true},
		{Seq: 3, At: now, Kind: firerunner.ReportExited, Message: "gone"},
	}, got)
	require.Empty(t, collect(t, l, 3))
	require.Empty(t, collect(t, l, 1000))
	require.Equal(t, got[1:], collect(t, l, 1))
	hello, ended := l.Said()
	require.True(t, hello && ended)

	var read []firerunner.GuestReport
	require.NoError(t, reportlog.Read(&sink, 0, func(r firerunner.GuestReport) error {
		read = append(read, r)
		return nil
	}))
	require.Equal(t, got, read, "the sink holds what followers saw")
}

func TestLogLimits(t *testing.T) {
	for name, fill := range map[string]firerunner.GuestReport{
		"not job keys":    {Kind: firerunner.ReportTookJob, JobKey: firerunner.JobKey(strings.Repeat("k", 3000))},
		"many small ones": {Kind: firerunner.ReportNotice},
		"large ones":      {Kind: firerunner.ReportNotice, Message: strings.Repeat("m", 1<<20), Failure: strings.Repeat("f", 1<<20)},
		"not notices":     {Kind: firerunner.ReportTookJob, Message: strings.Repeat("m", 3000)},
	} {
		t.Run(name, func(t *testing.T) {
			var sink bytes.Buffer
			l := reportlog.New(reportlog.Config{MaxBytes: 100_000, MaxReports: 50, Sink: &sink})
			for range 10_000 {
				l.Guest(fill)
			}
			l.Guest(firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: 1})
			l.Driver(exited)
			got := collect(t, l, 0)
			require.LessOrEqual(t, len(got), 50)
			require.Less(t, sink.Len(), 200_000)
			require.Equal(t, firerunner.ReportExited, got[len(got)-1].Kind)
			require.Contains(t, got[len(got)-2].Message, "were dropped")
			if fill.Kind == firerunner.ReportNotice {
				require.Equal(t, firerunner.ReportJobDone, got[len(got)-3].Kind, "notices crowded out the job's end")
			}
		})
	}
}

func TestFollowErrors(t *testing.T) {
	l := reportlog.New(reportlog.Config{})
	l.Guest(firerunner.GuestReport{Kind: firerunner.ReportHello})
	own := errors.New("own")
	require.ErrorIs(t, l.Follow(t.Context(), 0, func(firerunner.GuestReport) error { return own }), own)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l := reportlog.New(reportlog.Config{})
		require.ErrorIs(t, l.Follow(ctx, 0, func(firerunner.GuestReport) error { return nil }), context.DeadlineExceeded)
	})
}

func TestFollowWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := reportlog.New(reportlog.Config{})
		var got []firerunner.GuestReport
		done := make(chan error)
		go func() {
			done <- l.Follow(t.Context(), 1, func(r firerunner.GuestReport) error {
				got = append(got, r)
				return nil
			})
		}()
		synctest.Wait()
		l.Guest(firerunner.GuestReport{Kind: firerunner.ReportHello}) // not after 1
		synctest.Wait()
		require.Empty(t, got)
		l.Guest(firerunner.GuestReport{Kind: firerunner.ReportStarted})
		synctest.Wait()
		require.Len(t, got, 1)
		l.Driver(exited)
		require.NoError(t, <-done)
		require.Len(t, got, 2)
	})
}

type full struct{ written int }

func (f *full) Write(p []byte) (int, error) {
	if f.written > 0 {
		return 0, errors.New("no space left on device")
	}
	f.written += len(p)
	return len(p), nil
}

func TestSinkErr(t *testing.T) {
	l := reportlog.New(reportlog.Config{Sink: &full{}})
	l.Guest(firerunner.GuestReport{Kind: firerunner.ReportHello})
	require.NoError(t, l.SinkErr())
	l.Guest(firerunner.GuestReport{Kind: firerunner.ReportStarted})
	require.Error(t, l.SinkErr())
	l.Driver(exited)
	require.Len(t, collect(t, l, 0), 3, "a full disk loses no report in memory")
}

func TestReadErrors(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want int
		code firerunner.Code
	}{
		"OKEmpty":      {"", 0, ""},
		"OKCutByCrash": {`{"Seq":1,"Kind":"hello"}` + "\n" + `{"Seq":2,"Ki`, 1, ""},
		"ErrGap":       {`{"Seq":1,"Kind":"hello"}` + "\n" + `{"Seq":3,"Kind":"started"}` + "\n", 1, firerunner.Invalid},
		"ErrAgain":     {`{"Seq":1,"Kind":"hello"}` + "\n" + `{"Seq":1,"Kind":"hello"}` + "\n", 1, firerunner.Invalid},
		"ErrKind":      {`{"Seq":1,"Kind":"evil"}` + "\n", 0, firerunner.Invalid},
		"ErrJSON":      {"hello\n", 0, firerunner.Invalid},
		"ErrLong":      {`{"Seq":1,"Message":"` + strings.Repeat("x", reportlog.MaxLine) + `"}` + "\n", 0, firerunner.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			err := reportlog.Read(strings.NewReader(c.text), 0, func(firerunner.GuestReport) error { n++; return nil })
			require.Equal(t, c.code, firerunner.CodeOf(err), "%v", err)
			require.Equal(t, c.want, n)
		})
	}
}

func TestClean(t *testing.T) {
	for _, c := range [][3]any{
		{"plain", 10, "plain"},
		{"two\nlines\tand a tab", 100, "two lines and a tab"},
		{"\x1b[31mred\x1b[0m\x00", 100, "[31mred[0m"},
		{"bad \xff utf8", 100, "bad ? utf8"},
		{"right\u202eto left", 100, "rightto left"},
		{"0123456789", 8, "01234..."},
		{"0123éé", 7, "0123..."},
	} {
		require.Equal(t, c[2], reportlog.Clean(c[0].(string), c[1].(int)))
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"Seq":1,"Kind":"hello","Message":"x"}` + "\n" + `{"Seq":2,"Kind":"exited"}` + "\n"))
	f.Add([]byte(`{"Seq":1,"Kind":"notice","Message":"` + strings.Repeat("\\u001b", 3000) + `"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		last := int64(0)
		_ = reportlog.Read(bytes.NewReader(b), 0, func(r firerunner.GuestReport) error {
			require.Equal(t, last+1, r.Seq)
			last = r.Seq
			require.LessOrEqual(t, len(r.Message), reportlog.MaxMessage)
			require.True(t, utf8.ValidString(r.Message))
			require.Equal(t, r.Message, reportlog.Clean(r.Message, reportlog.MaxMessage), "cleaning is not stable")
			return nil
		})
	})
}

func FuzzClean(f *testing.F) {
	f.Add("x\x1b[0m", 5)
	f.Add(strings.Repeat("é", 20), 9)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 3 + (limit&0xff)%200
		got := reportlog.Clean(s, limit)
		require.LessOrEqual(t, len(got), limit)
		require.True(t, utf8.ValidString(got))
		require.Equal(t, got, reportlog.Clean(got, limit))
	})
}
