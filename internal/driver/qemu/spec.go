package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// shimSpec is all that a shim is told, once, through its standard input. It is the one place where the secret is
// revealed; it is never written anywhere.
type shimSpec struct {
	ID       string
	Dir      string // the microVM's own folder
	QEMU     string
	QEMUImg  string
	Accel    string
	TSCKHz   uint64
	Size     firerunner.Size
	Image    firerunner.Image
	Network  firerunner.NetworkPolicy
	Start    firerunner.GuestStart // its token is redacted
	Token    string                // the revealed token
	Deadline time.Time
	Host     string // where it runs, for messages

	Provision firerunner.Provisioning
	SSH       firerunner.SSHAccess

	ConsoleBytes int64
	ReportBytes  int64
	ReportCount  int
	StopGrace    time.Duration
	Linger       time.Duration
	OOMFile      string // counts OOM kills; empty = unknown
	MemoryMiB    int    // the cgroup's limit, for messages
}

// maxSpec bounds what a shim reads: a CA bundle is the only part that can be long.
const maxSpec = 4 << 20

func readSpec(from io.Reader) (shimSpec, error) {
	var spec shimSpec
	if err := json.NewDecoder(io.LimitReader(from, maxSpec)).Decode(&spec); err != nil {
		return spec, fmt.Errorf("reading the spec: %w", err)
	}
	if err := checkID(spec.ID); err != nil {
		return spec, err
	}
	if !filepath.IsAbs(spec.Dir) {
		return spec, errors.New("reading the spec: the folder is not an absolute path")
	}
	spec.Start.Token, spec.Token = firerunner.Secret(spec.Token), ""
	return spec, nil
}

// answer is the shim's one line to whoever started it: qemu runs, or why not.
type answer struct {
	Error string          `json:"error,omitempty"`
	Code  firerunner.Code `json:"code,omitempty"`
	Hint  string          `json:"hint,omitempty"`
}

func answerOf(err error) answer {
	if err == nil {
		return answer{}
	}
	return answer{Error: err.Error(), Code: firerunner.CodeOf(err), Hint: firerunner.HintOf(err)}
}

func (a answer) err() error {
	if a.Error == "" {
		return nil
	}
	err := firerunner.Errorf(codeOr(a.Code), "%s", a.Error)
	if a.Hint != "" {
		err = err.WithHint("%s", a.Hint)
	}
	return err
}

func codeOr(code firerunner.Code) firerunner.Code {
	switch code {
	case firerunner.Invalid, firerunner.NotFound, firerunner.Conflict, firerunner.Unauthorized,
		firerunner.Unavailable, firerunner.Exhausted:
		return code
	}
	return firerunner.Internal
}

// checkSpec refuses what cannot become a microVM, before anything is made.
func checkSpec(spec firerunner.MicroVMSpec, now time.Time) error {
	if err := checkID(spec.ID); err != nil {
		return err
	}
	var wrong []string
	if spec.Size.VCPUs < 1 || spec.Size.VCPUs > 288 { // 288 is what QEMU's microvm machine can have
		wrong = append(wrong, fmt.Sprintf("%d vCPUs", spec.Size.VCPUs))
	}
	if spec.Size.MemoryMiB < 64 || spec.Size.MemoryMiB > 16<<20 {
		wrong = append(wrong, fmt.Sprintf("%d MiB of memory", spec.Size.MemoryMiB))
	}
	if spec.Size.DiskMiB < 0 || spec.Size.DiskMiB > 64<<20 {
		wrong = append(wrong, fmt.Sprintf("%d MiB of disk", spec.Size.DiskMiB))
	}
	for what, path := range map[string]string{"kernel": spec.Image.Kernel, "initrd": spec.Image.Initrd, "root file system": spec.Image.RootFS} {
		switch {
		case path == "" && what == "kernel":
			wrong = append(wrong, "no kernel")
		case path != "" && !filepath.IsAbs(path):
			wrong = append(wrong, fmt.Sprintf("%s %q is not an absolute path", what, path))
		}
	}
	if strings.ContainsAny(spec.Image.Cmdline, "\n\x00") {
		wrong = append(wrong, "a kernel line of more than one line")
	}
	if !spec.Deadline.After(now) {
		wrong = append(wrong, "a deadline that is missing or has passed")
	}
	if len(wrong) > 0 {
		return firerunner.Errorf(firerunner.Invalid, "qemu: microVM %s cannot be made: %s", spec.ID, strings.Join(wrong, "; "))
	}
	return nil
}
