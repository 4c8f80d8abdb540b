package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/firerunner/firerunner"
)

// The messages of a guest that are no reports. They have no number and are not acknowledged by one.
const (
	GuestAttach  firerunner.ReportKind = "attach"  // the first line over a network: ID, and Token or Session
	GuestAlive   firerunner.ReportKind = "alive"   // a sign of life; the host answers with what it has recorded
	GuestConsole firerunner.ReportKind = "console" // the end of the agent's console: Console
)

// FromGuest is one message from a guest to the host.
type FromGuest struct {
	Number int64 // 1, 2, 3, ... in the order of sending; the host acknowledges by it
	Kind   firerunner.ReportKind
	Agent  string // hello: the version of the guest agent
	Kernel string // hello: the kernel's release
	// Clock is what time it was for the guest when it was let in, before it set its clock. hello, over a network only; zero
	// where it does not say.
	Clock    time.Time
	BootID   string            // started: /proc/sys/kernel/random/boot_id, first read once the host's randomness had come
	JobID    int64             // took_job, job_done
	JobKey   firerunner.JobKey // took_job: where the host asked for it
	Success  bool              // job_done
	Failure  string            // job_done: gitlab-runner's failure_reason
	ExitCode int               // job_done: of the script; runner_exited: of gitlab-runner
	Message  string            // notice, error, runner_exited

	ID      string            // attach: which microVM
	Token   firerunner.Secret // attach: the one-time token, the first time
	Session firerunner.Secret // attach: what start gave for it, from then on
	Console []byte            // console: anything
}

// report reports whether it is one, and no message about the channel itself.
func (m FromGuest) report() bool {
	return m.Kind != GuestAttach && m.Kind != GuestAlive && m.Kind != GuestConsole
}

// guestWire is how a FromGuest looks on the wire. Token and Session are plain strings here and nowhere else.
type guestWire struct {
	V        int    `json:"v"`
	N        int64  `json:"n"`
	Kind     string `json:"kind"`
	Agent    string `json:"agent,omitempty"`
	Kernel   string `json:"kernel,omitempty"`
	ClockNS  int64  `json:"clock_ns,omitempty"`
	BootID   string `json:"boot_id,omitempty"`
	Job      int64  `json:"job,omitempty"`
	JobKey   string `json:"job_key,omitempty"`
	Success  bool   `json:"success,omitempty"`
	Failure  string `json:"failure,omitempty"`
	ExitCode int64  `json:"exit_code,omitempty"`
	Message  string `json:"message,omitempty"`
	ID       string `json:"id,omitempty"`
	Token    string `json:"token,omitempty"`
	Session  string `json:"session,omitempty"`
	Console  []byte `json:"console,omitempty"`
}

// EncodeFromGuest makes a line of it, newline included. Of an attach it reveals the token and the session: the line
// goes to the host and nowhere else.
func EncodeFromGuest(m FromGuest) ([]byte, error) {
	clock := int64(0)
	if !m.Clock.IsZero() {
		clock = m.Clock.UnixNano()
	}
	line, err := json.Marshal(guestWire{
		V: version, N: m.Number, Kind: string(m.Kind), Agent: m.Agent, BootID: m.BootID, Kernel: m.Kernel, ClockNS: clock,
		Job: m.JobID, JobKey: string(m.JobKey), Success: m.Success, Failure: m.Failure, ExitCode: int64(m.ExitCode),
		Message: Text(m.Message, MaxMessage), ID: m.ID, Token: m.Token.Reveal(), Session: m.Session.Reveal(), Console: m.Console,
	})
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "encode guest message: %w", err)
	}
	if len(line) >= MaxGuestLine {
		return nil, firerunner.Errorf(firerunner.Invalid, "encode guest message: %d bytes is more than %d", len(line), MaxGuestLine)
	}
	return append(line, '\n'), nil
}

// DecodeFromGuest reads one line from a guest. Whatever it returns without an error is within bounds: texts are
// cut and cleaned, numbers are checked.
func DecodeFromGuest(line []byte) (FromGuest, error) {
	if len(line) > MaxGuestLine {
		return FromGuest{}, errLineTooLong
	}
	var w guestWire
	if err := json.Unmarshal(line, &w); err != nil {
		return FromGuest{}, errors.New("not a message") // the cause would repeat foreign bytes
	}
	if w.V != version {
		return FromGuest{}, fmt.Errorf("protocol version %d, want %d", w.V, version)
	}
	m := FromGuest{Number: w.N, Kind: firerunner.ReportKind(w.Kind)}
	if w.N < 0 {
		return FromGuest{}, errors.New("negative message number")
	}
	if w.ExitCode < math.MinInt32 || w.ExitCode > math.MaxInt32 {
		return FromGuest{}, errors.New("exit code out of range")
	}
	switch m.Kind {
	case firerunner.ReportHello:
		m.Agent, m.Kernel = w.Agent, w.Kernel
		if !word(m.Agent, 128) || !word(m.Kernel, 128) {
			return FromGuest{}, errors.New("hello with an odd version or kernel")
		}
		if w.ClockNS > 0 { // a clock that stands before 1970 says nothing
			m.Clock = time.Unix(0, w.ClockNS)
		}
	case firerunner.ReportStarted:
		if m.BootID = w.BootID; !word(m.BootID, 64) {
			return FromGuest{}, errors.New("started with an odd boot id")
		}
	case firerunner.ReportTookJob, firerunner.ReportJobDone:
		if w.Job <= 0 {
			return FromGuest{}, errors.New("job id is not positive")
		}
		m.JobID = w.Job
		if m.Kind == firerunner.ReportTookJob {
			if m.JobKey = firerunner.JobKey(w.JobKey); !m.JobKey.Valid() {
				return FromGuest{}, errors.New("odd job key")
			}
		}
		if m.Kind == firerunner.ReportJobDone {
			if !word(w.Failure, 64) {
				return FromGuest{}, errors.New("odd failure reason")
			}
			m.Success, m.Failure, m.ExitCode = w.Success, w.Failure, int(w.ExitCode)
		}
	case firerunner.ReportNotice, firerunner.ReportError:
		m.Message = Text(w.Message, MaxMessage)
	case firerunner.ReportRunnerExited:
		m.ExitCode, m.Message = int(w.ExitCode), Text(w.Message, MaxMessage)
	case GuestAttach:
		m.ID, m.Token, m.Session = w.ID, firerunner.Secret(w.Token), firerunner.Secret(w.Session)
		if !name(w.ID) || !credential(w.Token) || !credential(w.Session) || (w.Token == "") == (w.Session == "") {
			return FromGuest{}, errors.New("attach without a name and either a token or a session")
		}
	case GuestAlive:
	case GuestConsole:
		if m.Console = w.Console; len(m.Console) > MaxConsole {
			return FromGuest{}, errors.New("too much console at once")
		}
	default:
		return FromGuest{}, fmt.Errorf("unknown kind %q", Text(w.Kind, 32))
	}
	return m, nil
}
