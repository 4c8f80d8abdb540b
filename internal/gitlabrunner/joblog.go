package gitlabrunner

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/firerunner/firerunner"
)

// What gitlab-runner --log-format json says, one object a line, is the only place where it tells how its job
// went: its exit status is 0 whatever became of the job. Read from gitlab-runner's source and checked by running
// 15.4, 17.5 and 19.4: https://gitlab.com/gitlab-org/gitlab-runner/-/blob/main/common/build.go (setTraceStatus),
// network/gitlab.go (RequestJob), commands/single.go.
//
// A job runs as the same user and can write to the same pipe, so all of this may be forged by the job that it is
// about. It harms that job's own record only: the host asks GitLab for the truth.

// MaxLine is the longest line of the log, in bytes, that is looked at. Longer ones are skipped.
const MaxLine = 64 << 10

// EventKind is what a line of the log tells.
type EventKind int

// The kinds.
const (
	Nothing  EventKind = iota
	Ready              // the settings have been read
	TookJob            // Job
	JobDone            // Job, Success, Failure, ExitCode
	NoJob              // it has waited long enough: Text
	Refused            // GitLab does not know the credential (any more): Text
	Complain           // a warning or worse: Text
)

// Event is what one line means. Text is as gitlab-runner wrote it, so a job's doing perhaps: it must be cleaned before
// it is kept or shown. It has at most MaxLine bytes.
type Event struct {
	Kind     EventKind
	Job      int64
	Success  bool
	Failure  string // gitlab-runner's failure_reason, at most 64 bytes
	ExitCode int
	Text     string
}

// Report is the event as a guest's report; ok = false for what is no news.
func (e Event) Report() (r firerunner.GuestReport, ok bool) {
	switch e.Kind {
	case TookJob:
		return firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: e.Job}, true
	case JobDone:
		return firerunner.GuestReport{
			Kind: firerunner.ReportJobDone, JobID: e.Job, Success: e.Success, Failure: e.Failure, ExitCode: e.ExitCode,
		}, true
	case Refused:
		return firerunner.GuestReport{Kind: firerunner.ReportError, Message: e.Text}, true
	case Complain:
		return firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "gitlab-runner: " + e.Text}, true
	}
	return firerunner.GuestReport{}, false
}

// logLine is what is read of a line. Exit code and job are numbers in some versions and texts in others.
type logLine struct {
	Level     string      `json:"level"`
	Message   string      `json:"msg"`
	Error     string      `json:"error"`
	Job       json.Number `json:"job"`
	Status    string      `json:"job-status"`
	Failure   string      `json:"failure_reason"`
	ExitCode  json.Number `json:"exit_code"`
	StatusTxt string      `json:"status"`
}

// exitWords finds the exit code in the text of versions that do not say it in a field.
var exitWords = regexp.MustCompile(`exit (?:status|code) (\d{1,5})\b`)

// ParseLine says what a line means; most lines mean nothing.
func ParseLine(line []byte) Event {
	var l logLine
	var odd *json.UnmarshalTypeError // one field of another type does not spoil the others
	if err := json.Unmarshal(line, &l); err != nil && !errors.As(err, &odd) {
		return plainEvent(line)
	}
	message := strings.TrimSpace(l.Message)
	job, _ := strconv.ParseInt(l.Job.String(), 10, 64)
	switch {
	case strings.HasPrefix(message, "Starting runner for "):
		return Event{Kind: Ready}
	case strings.HasPrefix(message, "Checking for jobs...") && strings.HasSuffix(message, "received") && job > 0:
		return Event{Kind: TookJob, Job: job}
	case strings.HasPrefix(message, "Job succeeded") && job > 0:
		return Event{Kind: JobDone, Job: job, Success: true}
	case strings.HasPrefix(message, "Job failed") && job > 0:
		return failedEvent(job, message, l)
	case strings.HasPrefix(message, "This runner has not received a job in"):
		return Event{Kind: NoJob, Text: message}
	case strings.HasPrefix(message, "Runner is not healthy"):
		return Event{Kind: Refused, Text: "GitLab refuses the runner's credential"}
	}
	if strings.HasPrefix(message, "Failed to process build") {
		return Event{} // the job's failure once more
	}
	switch l.Level {
	case "warning", "error", "fatal", "panic":
		if l.Error != "" {
			message += ": " + l.Error
		}
		if l.StatusTxt != "" {
			message += " (" + l.StatusTxt + ")"
		}
		return Event{Kind: Complain, Text: message}
	}
	return Event{}
}

func failedEvent(job int64, message string, l logLine) Event {
	e := Event{Kind: JobDone, Job: job, Failure: l.Failure}
	if code, err := strconv.ParseInt(l.ExitCode.String(), 10, 32); err == nil {
		e.ExitCode = int(code)
	} else if found := exitWords.FindStringSubmatch(message + " " + l.Error); found != nil {
		e.ExitCode, _ = strconv.Atoi(found[1])
	}
	switch {
	case e.Failure != "" && len(e.Failure) <= 64:
	case strings.HasPrefix(message, "Job failed (system failure)"):
		e.Failure = "runner_system_failure"
	default:
		e.Failure = "script_failure"
	}
	return e
}

// plainEvent takes what is no JSON, such as a panic or a message from before logging was set up, for a complaint.
func plainEvent(line []byte) Event {
	return Event{Kind: Complain, Text: string(line)}
}

// ReadLog reads lines until the stream ends and calls each for every line that means something.
func ReadLog(r io.Reader, each func(Event)) {
	in := bufio.NewReaderSize(r, MaxLine)
	for skipping := false; ; {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			skipping = true
			continue
		}
		if line = bytes.TrimSpace(line); len(line) > 0 && !skipping {
			if e := ParseLine(line); e.Kind != Nothing {
				each(e)
			}
		}
		if err != nil {
			return
		}
		skipping = false
	}
}
