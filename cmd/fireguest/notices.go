package main

import (
	"bufio"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner/internal/guest"
)

const maxNotice = 512 // bytes of one

// openNotices makes a pipe that every process of the microVM can write a line to, and reads lines from it. What
// comes out is the job's word: bounded in length here and in number, then no longer read. The function that it
// returns closes the pipe and waits for the reading to end.
func openNotices(path string) (<-chan string, func(), error) {
	if err := unix.Mkfifo(path, 0o622); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, nil, err
	}
	if err := os.Chmod(path, 0o622); err != nil { // whatever the umask
		return nil, nil, err
	}
	// Open for writing as well, so that the pipe never ends and a writer never waits for a reader.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	notices, done := make(chan string), make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewReaderSize(f, 4096)
		for sent, last := 0, ""; sent < maxNotices; {
			line, err := in.ReadSlice('\n')
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return
			}
			text := guest.Text(string(line), maxNotice)
			if text == "" || text == last {
				continue
			}
			select {
			case notices <- text:
				sent, last = sent+1, text
			case <-stop:
				return
			}
		}
	}()
	return notices, func() {
		close(stop)
		_ = f.Close()
		<-done
	}, nil
}
