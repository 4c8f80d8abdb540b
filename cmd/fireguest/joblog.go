package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/firerunner/firerunner/internal/guest"
)

// What gitlab-runner --log-format json says, one object a line, is the only place where it tells how its job
// went: its exit status is 0 whatever became of the job. Read from gitlab-runner's source and checked by running
// 15.4, 17.5 and 19.4: https://gitlab.com/gitlab-org/gitlab-runner/-/blob/main/common/build.go (setTraceStatus),
// network/gitlab.go (RequestJob), commands/single.go.
//
// A job runs as the same user and can write to the same pipe, so all of this may be forged by the job that it is
// about. It harms that job's own record only: the host asks GitLab for the truth.

// maxLogLine is the longest line that is looked at. Longer ones are skipped.
const maxLogLine = 64 << 10

type eventKind int

const (
	eventNone     eventKind = iota
	eventReady              // the configuration has been read
	eventTookJob            // Job
	eventJobDone            // Job, Success, Failure, ExitCode
	eventNoJob              // it has waited long enough
	eventRefused            // GitLab does not know the credential (any more)
	eventComplain           // a warning or worse: Text
)

// event is what one line means.
type event struct {
	kind     eventKind
	job      int64
	success  bool
	failure  string
	exitCode int
	text     string
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

// parseLogLine says what a line means; most lines mean nothing.
func parseLogLine(line []byte) event {
	var l logLine
	var odd *json.UnmarshalTypeError // one field of another type does not spoil the others
	if err := json.Unmarshal(line, &l); err != nil && !errors.As(err, &odd) {
		return plainEvent(line)
	}
	message := strings.TrimSpace(l.Message)
	job, _ := strconv.ParseInt(l.Job.String(), 10, 64)
	switch {
	case strings.HasPrefix(message, "Starting runner for "):
		return event{kind: eventReady}
	case strings.HasPrefix(message, "Checking for jobs...") && strings.HasSuffix(message, "received") && job > 0:
		return event{kind: eventTookJob, job: job}
	case strings.HasPrefix(message, "Job succeeded") && job > 0:
		return event{kind: eventJobDone, job: job, success: true}
	case strings.HasPrefix(message, "Job failed") && job > 0:
		return failedEvent(job, message, l)
	case strings.HasPrefix(message, "This runner has not received a job in"):
		return event{kind: eventNoJob, text: message}
	case strings.HasPrefix(message, "Runner is not healthy"):
		return event{kind: eventRefused, text: "GitLab refuses the runner's credential"}
	}
	if strings.HasPrefix(message, "Failed to process build") {
		return event{} // the job's failure once more
	}
	switch l.Level {
	case "warning", "error", "fatal", "panic":
		if l.Error != "" {
			message += ": " + l.Error
		}
		if l.StatusTxt != "" {
			message += " (" + l.StatusTxt + ")"
		}
		return event{kind: eventComplain, text: guest.Text(message, 512)}
	}
	return event{}
}

func failedEvent(job int64, message string, l logLine) event {
	e := event{kind: eventJobDone, job: job, failure: l.Failure}
	if code, err := strconv.ParseInt(l.ExitCode.String(), 10, 32); err == nil {
		e.exitCode = int(code)
	} else if found := exitWords.FindStringSubmatch(message + " " + l.Error); found != nil {
		e.exitCode, _ = strconv.Atoi(found[1])
	}
	switch {
	case e.failure != "" && len(e.failure) <= 64:
	case strings.HasPrefix(message, "Job failed (system failure)"):
		e.failure = "runner_system_failure"
	default:
		e.failure = "script_failure"
	}
	return e
}

// plainEvent takes what is no JSON, such as a panic or a message from before logging was set up, for a complaint.
func plainEvent(line []byte) event {
	text := guest.Text(string(line), 512)
	if text == "" {
		return event{}
	}
	return event{kind: eventComplain, text: text}
}

// readLog reads lines until the stream ends and calls each for every line that means something.
func readLog(r io.Reader, each func(event)) {
	in := bufio.NewReaderSize(r, maxLogLine)
	for skipping := false; ; {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			skipping = true
			continue
		}
		if line = bytes.TrimSpace(line); len(line) > 0 && !skipping {
			if e := parseLogLine(line); e.kind != eventNone {
				each(e)
			}
		}
		if err != nil {
			return
		}
		skipping = false
	}
}
