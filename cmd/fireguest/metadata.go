package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/firerunner/firerunner/internal/guest"
)

const (
	metadataAddress = "169.254.169.254"
	// metadataOwn is the address that Flintlock gives to the interface that leads there, and to no other.
	metadataOwn  = "169.254.0.1/16"
	metadataWait = 20 * time.Second // for the service to answer
	metadataTry  = 2 * time.Second  // for one answer
)

func metadataNet() netip.Prefix { return netip.MustParsePrefix(metadataOwn).Masked() }

// metadataService reads what the host says of this microVM. It speaks as much of HTTP/1.0 as that takes, with every bound
// in sight.
type metadataService struct {
	dial func(ctx context.Context) (net.Conn, error)
	wait time.Duration // between two tries
}

func newMetadataService() *metadataService {
	return &metadataService{
		dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp4", net.JoinHostPort(metadataAddress, "80"))
		},
		wait: 50 * time.Millisecond,
	}
}

// read tries until there is an answer that makes sense or the context ends.
func (s *metadataService) read(ctx context.Context) (guest.Metadata, error) {
	var last error
	for {
		m, err := s.once(ctx)
		if err == nil {
			return m, nil
		}
		var late net.Error
		if last == nil || !errors.As(err, &late) || !late.Timeout() {
			last = err // one that only says that time is up does not cover one that says more
		}
		again := time.NewTimer(s.wait)
		select {
		case <-ctx.Done():
			again.Stop()
			return guest.Metadata{}, fmt.Errorf("read the metadata: %w", last)
		case <-again.C:
		}
	}
}

func (s *metadataService) once(ctx context.Context) (guest.Metadata, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTry)
	defer cancel()
	conn, err := s.dial(ctx)
	if err != nil {
		return guest.Metadata{}, err
	}
	defer conn.Close()
	if end, set := ctx.Deadline(); set {
		_ = conn.SetDeadline(end)
	}
	// Without an Accept header, Firecracker's service answers with the text itself:
	// https://github.com/firecracker-microvm/firecracker/blob/main/docs/mmds/mmds-user-guide.md
	if _, err := io.WriteString(conn, "GET /latest/"+guest.MetadataKey+" HTTP/1.0\r\nHost: "+metadataAddress+"\r\n\r\n"); err != nil {
		return guest.Metadata{}, err
	}
	text, err := readAnswer(conn)
	if err != nil {
		return guest.Metadata{}, err
	}
	return guest.DecodeMetadata(text)
}

// readAnswer reads the answer to an HTTP/1.0 request and returns its body.
func readAnswer(r io.Reader) ([]byte, error) {
	const maxHeaders = 64
	in := bufio.NewReaderSize(io.LimitReader(r, 64<<10), 4<<10)
	line := func() (string, error) {
		text, err := in.ReadSlice('\n')
		if err != nil {
			return "", fmt.Errorf("the answer is cut off: %w", err)
		}
		return strings.TrimRight(string(text), "\r\n"), nil
	}
	status, err := line()
	if err != nil {
		return nil, err
	}
	protocol, rest, _ := strings.Cut(status, " ")
	if protocol != "HTTP/1.0" && protocol != "HTTP/1.1" {
		return nil, errors.New("the answer is not HTTP")
	}
	if code, _, _ := strings.Cut(rest, " "); code != "200" {
		return nil, fmt.Errorf("the service says %q", guest.Text(rest, 64))
	}
	length := -1
	for range maxHeaders {
		header, err := line()
		if err != nil {
			return nil, err
		}
		if header == "" {
			return readBody(in, length)
		}
		key, value, _ := strings.Cut(header, ":")
		switch value = strings.TrimSpace(value); strings.ToLower(key) {
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil || n > guest.MaxMetadata {
				return nil, errors.New("the answer has an odd length")
			}
			length = int(n)
		case "transfer-encoding":
			return nil, errors.New("the answer is in chunks")
		}
	}
	return nil, errors.New("the answer has too many headers")
}

// readBody reads as much as was said, or all where nothing was: Firecracker keeps the connection open.
func readBody(in io.Reader, length int) ([]byte, error) {
	if length >= 0 {
		body := make([]byte, length)
		_, err := io.ReadFull(in, body)
		return body, err
	}
	body, err := io.ReadAll(io.LimitReader(in, guest.MaxMetadata+1))
	if err == nil && len(body) > guest.MaxMetadata {
		err = errors.New("the answer is too long")
	}
	return body, err
}
