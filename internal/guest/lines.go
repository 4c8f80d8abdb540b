package guest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

var errLineTooLong = errors.New("line too long")

// lines reads lines of bounded length from a source that may send anything. Its memory is one buffer.
type lines struct {
	r *bufio.Reader
}

func newLines(r io.Reader, limit int) *lines {
	return &lines{r: bufio.NewReaderSize(r, limit)}
}

// next returns the next line without its end; it is valid until the next call. A line that is too long is read
// to its end and reported as errLineTooLong; reading can go on after that. What stands before the end of the
// stream without a newline is not a line.
func (l *lines) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		if err != nil {
			return nil, err
		}
		return bytes.TrimRight(line, "\r\n"), nil
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = l.r.ReadSlice('\n')
	}
	if err != nil {
		return nil, err
	}
	return nil, errLineTooLong
}
