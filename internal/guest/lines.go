package guest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

var errLineTooLong = errors.New("line too long")

// usualLine is how long lines are as a rule, in bytes: signs of life and acknowledgements.
const usualLine = 1 << 10

// lines reads lines of bounded length from a source that may send anything. Its memory is one small buffer, because a host
// reads from a thousand guests that say nothing, and while a longer line is read, that line.
type lines struct {
	r     *bufio.Reader
	limit int // of a line with its end, in bytes
}

func newLines(r io.Reader, limit int) *lines {
	return &lines{r: bufio.NewReaderSize(r, min(usualLine, limit)), limit: limit}
}

// next returns the next line without its end; it is valid until the next call. A line that is too long is read
// to its end and reported as errLineTooLong; reading can go on after that. What stands before the end of the
// stream without a newline is not a line.
func (l *lines) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line, err = l.long(line)
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// long reads the rest of a line that the buffer does not hold.
func (l *lines) long(begun []byte) ([]byte, error) {
	line, tooLong := bytes.Clone(begun), false
	for {
		more, err := l.r.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(more) > l.limit; tooLong {
			line = nil
		} else {
			line = append(line, more...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return nil, err
		case tooLong:
			return nil, errLineTooLong
		default:
			return line, nil
		}
	}
}
