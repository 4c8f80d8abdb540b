package reportlog

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"

	"github.com/firerunner/firerunner"
)

// MaxLine is the longest line of JSON that one report may be.
const MaxLine = 8 * (MaxMessage + lineOverhead)

// Read calls report for each report in a stream of JSON lines. What comes from outside must be in order: a line
// that is too long, is no report, or does not follow the one before ends it with an Invalid error. A last line
// that was cut by a crash is left out.
func Read(from io.Reader, after int64, report func(firerunner.GuestReport) error) error {
	lines := bufio.NewReaderSize(from, MaxLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return firerunner.Errorf(firerunner.Invalid, "reading reports: a line is longer than %d bytes", MaxLine)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		var r firerunner.GuestReport
		if err := json.Unmarshal(line, &r); err != nil {
			return firerunner.Errorf(firerunner.Invalid, "reading reports: after %d: %w", after, err)
		}
		if r.Seq != after+1 || !known(r.Kind) {
			return firerunner.Errorf(firerunner.Invalid, "reading reports: after %d came %d of kind %.32q", after, r.Seq, r.Kind)
		}
		r.Message, r.Failure = Clean(r.Message, MaxMessage), Clean(r.Failure, maxFailure)
		if !r.JobKey.Valid() {
			r.JobKey = ""
		}
		after = r.Seq
		if err := report(r); err != nil {
			return err
		}
	}
}
