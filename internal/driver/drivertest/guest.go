package drivertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/firerunner/firerunner"
)

// JobID and JobKey are those of every job that the test guest takes: what it says passes through a driver unchanged.
const (
	JobID  = 1 << 50
	JobKey = firerunner.JobKey("a_job-Key")
)

// Guest is the host's side of the test guest's line protocol, for drivers that have a guest channel. The name of
// the start is the guest's script; see testdata/guest. It ends with conn.
func Guest(ctx context.Context, conn io.ReadWriteCloser, start firerunner.GuestStart,
	report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder,
) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var writers sync.WaitGroup
	defer writers.Wait()
	defer cancel()
	hello := false
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		words := strings.SplitN(lines.Text(), " ", 3)
		switch {
		case words[0] == "hello" && !hello:
			hello = true
			report(firerunner.GuestReport{Kind: firerunner.ReportHello})
			if _, err := fmt.Fprintf(conn, "start %s\n", start.Name); err != nil {
				return err
			}
			writers.Go(func() {
				for {
					select {
					case order := <-orders:
						if _, err := fmt.Fprintf(conn, "order %s\n", order); err != nil {
							return
						}
					case <-ctx.Done():
						return
					}
				}
			})
		case words[0] == "report" && len(words) > 1:
			r := firerunner.GuestReport{Kind: firerunner.ReportKind(words[1])}
			if len(words) == 3 {
				r.Message = words[2]
			}
			if r.Kind == firerunner.ReportTookJob {
				r.JobID, r.JobKey = JobID, JobKey
			}
			report(r)
		default:
			return firerunner.Errorf(firerunner.Invalid, "the guest says %.40q", lines.Text())
		}
	}
	if errors.Is(lines.Err(), io.EOF) {
		return nil
	}
	return lines.Err()
}
