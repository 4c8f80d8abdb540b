// Package reportlog keeps the reports of one microVM: numbered, bounded, replayable, followed by any number of
// readers. Drivers whose microVMs report through them share it.
//
// Reports come from a machine that may be hostile, so the log has a limit in bytes and in number. Notices are
// dropped first, then everything else from the guest; there is always room for the driver's own last word.
package reportlog

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/firerunner/firerunner"
)

// Limits of a log that has none of its own, and of one report.
const (
	DefaultMaxBytes   = 1 << 20
	DefaultMaxReports = 4096
	MaxMessage        = 4 << 10 // bytes of a report's message
	maxFailure        = 128     // bytes of a report's failure reason
	lineOverhead      = 256     // bytes of one JSON line besides its texts
)

// Config is what a Log needs.
type Config struct {
	MaxBytes   int64            // most bytes of reports; 0 = DefaultMaxBytes
	MaxReports int              // most reports; 0 = DefaultMaxReports
	Sink       io.Writer        // each report is written here too, as one line of JSON; nil = memory only
	Now        func() time.Time // nil = time.Now
}

// Log is the reports of one microVM.
type Log struct {
	cfg Config

	mu      sync.Mutex
	reports []firerunner.GuestReport
	bytes   int64
	dropped int64
	exited  bool
	hello   bool
	sinkErr error
	changed chan struct{} // closed and made anew with each report
}

// New returns an empty log.
func New(cfg Config) *Log {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.MaxReports <= 0 {
		cfg.MaxReports = DefaultMaxReports
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Log{cfg: cfg, changed: make(chan struct{})}
}

// Guest adds a report from the guest. Its Seq and At are given here whatever it says, its texts are cut and
// cleaned. It is dropped after the end, beyond the limits, and if it claims to be the driver's own.
func (l *Log) Guest(r firerunner.GuestReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.exited || r.Kind == firerunner.ReportExited || !known(r.Kind) || !r.JobKey.Valid() {
		return
	}
	if r.Kind == firerunner.ReportHello {
		l.hello = true
	}
	// Half of the log is for notices at most: a guest that floods must still be able to say how its job ended.
	maxBytes, maxReports := l.cfg.MaxBytes, l.cfg.MaxReports-2
	if r.Kind == firerunner.ReportNotice {
		maxBytes, maxReports = maxBytes/2, maxReports/2
	}
	// Cleaning costs more than dropping, so a flood is measured as it comes.
	room := int64(min(len(r.Message), MaxMessage)+min(len(r.Failure), maxFailure)+len(r.JobKey)) + lineOverhead
	if l.bytes+room > maxBytes || len(l.reports) >= maxReports {
		l.dropped++
		return
	}
	r.Message, r.Failure = Clean(r.Message, MaxMessage), Clean(r.Failure, maxFailure)
	l.add(r)
}

// Driver adds a report of the driver's own, which is never dropped. Nothing follows ReportExited: adding it a
// second time does nothing.
func (l *Log) Driver(r firerunner.GuestReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.exited {
		return
	}
	if r.Kind == firerunner.ReportExited {
		if l.dropped > 0 {
			l.add(firerunner.GuestReport{
				Kind:    firerunner.ReportNotice,
				Message: fmt.Sprintf("%d reports of the guest were dropped: there were too many", l.dropped),
			})
		}
		l.exited = true
	}
	r.Message = Clean(r.Message, MaxMessage)
	l.add(r)
}

// add numbers a report, keeps it, and wakes the followers. The lock is held.
func (l *Log) add(r firerunner.GuestReport) {
	r.Seq, r.At = int64(len(l.reports))+1, l.cfg.Now()
	l.reports = append(l.reports, r)
	l.bytes += size(r)
	if l.cfg.Sink != nil && l.sinkErr == nil {
		line, err := json.Marshal(r)
		if err == nil {
			_, err = l.cfg.Sink.Write(append(line, '\n'))
		}
		l.sinkErr = err // a full disk ends the file, not the reports: memory has them
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// Follow calls report for each report with Seq > after, in order, first those that are there and then each as
// it comes. It returns nil after ReportExited, report's error, or the context's.
func (l *Log) Follow(ctx context.Context, after int64, report func(firerunner.GuestReport) error) error {
	for {
		l.mu.Lock()
		from := min(max(after, 0), int64(len(l.reports)))
		missed, exited, changed := l.reports[from:], l.exited, l.changed
		l.mu.Unlock()
		for _, r := range missed {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := report(r); err != nil {
				return err
			}
			after = r.Seq
		}
		if exited {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Said reports whether the guest said hello, and whether the microVM has ended.
func (l *Log) Said() (hello, exited bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hello, l.exited
}

// SinkErr is the error that ended writing to the sink; nil if there is none.
func (l *Log) SinkErr() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sinkErr
}

func size(r firerunner.GuestReport) int64 {
	return int64(len(r.Message)+len(r.Failure)+len(r.JobKey)) + lineOverhead
}

func known(k firerunner.ReportKind) bool {
	switch k {
	case firerunner.ReportHello, firerunner.ReportStarted, firerunner.ReportTookJob, firerunner.ReportJobDone,
		firerunner.ReportNotice, firerunner.ReportRunnerExited, firerunner.ReportError, firerunner.ReportExited:
		return true
	}
	return false
}

// Clean makes text from a guest fit to be stored and shown: valid UTF-8, no control characters (they drive
// terminals), at most limit bytes.
func Clean(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:max(limit-len(ellipsis), 0)]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			return '?'
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || unicode.In(r, unicode.Cf):
			return -1
		}
		return r
	}, s)
	if cut {
		s = strings.TrimRight(s, "?") + ellipsis
	}
	return s
}

const ellipsis = "..."
