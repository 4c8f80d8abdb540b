package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/firerunner/firerunner"
)

// FromGuest is one message from a guest to the host.
type FromGuest struct {
	Number   int64 // 1, 2, 3, ... in the order of sending; the host acknowledges by it
	Kind     firerunner.ReportKind
	Agent    string // hello: the version of the guest agent
	Kernel   string // hello: the kernel's release
	BootID   string // started: /proc/sys/kernel/random/boot_id, first read once the host's randomness had come
	JobID    int64  // took_job, job_done
	Success  bool   // job_done
	Failure  string // job_done: gitlab-runner's failure_reason
	ExitCode int    // job_done: of the script; runner_exited: of gitlab-runner
	Message  string // notice, error, runner_exited
}

// guestWire is how a FromGuest looks on the wire.
type guestWire struct {
	V        int    `json:"v"`
	N        int64  `json:"n"`
	Kind     string `json:"kind"`
	Agent    string `json:"agent,omitempty"`
	Kernel   string `json:"kernel,omitempty"`
	BootID   string `json:"boot_id,omitempty"`
	Job      int64  `json:"job,omitempty"`
	Success  bool   `json:"success,omitempty"`
	Failure  string `json:"failure,omitempty"`
	ExitCode int64  `json:"exit_code,omitempty"`
	Message  string `json:"message,omitempty"`
}

// EncodeFromGuest makes a line of it, newline included.
func EncodeFromGuest(m FromGuest) ([]byte, error) {
	line, err := json.Marshal(guestWire{
		V: version, N: m.Number, Kind: string(m.Kind), Agent: m.Agent, BootID: m.BootID, Kernel: m.Kernel,
		Job: m.JobID, Success: m.Success, Failure: m.Failure, ExitCode: int64(m.ExitCode),
		Message: Text(m.Message, MaxMessage),
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
	case firerunner.ReportStarted:
		if m.BootID = w.BootID; !word(m.BootID, 64) {
			return FromGuest{}, errors.New("started with an odd boot id")
		}
	case firerunner.ReportTookJob, firerunner.ReportJobDone:
		if w.Job <= 0 {
			return FromGuest{}, errors.New("job id is not positive")
		}
		m.JobID = w.Job
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
	default:
		return FromGuest{}, fmt.Errorf("unknown kind %q", Text(w.Kind, 32))
	}
	return m, nil
}
