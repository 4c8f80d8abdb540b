package bench

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/driver/fake"
)

// BenchmarkRecovery kills the daemon with kill -9 and starts it again at once, while long jobs run and short ones come and go,
// with many more waiting. It prints how long after the kill it says that it is ready, a job begins in a microVM whose guest the
// new process let in, and the guest of every job that ran all the while is connected again. Run it with -benchtime 20x or more.
func BenchmarkRecovery(b *testing.B) {
	const hosts, long, short, waiting = 4, 40, 8, 100
	s := newOutside(b, hosts, (long+short)/hosts)
	var mu sync.Mutex
	var stay []string                   // microVMs whose jobs run all the while
	var killed time.Time                // the last time
	next := make(chan time.Duration, 1) // from killed to the first job of a guest that was let in since
	s.began = func(t fake.Task, letIn time.Time) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case killed.IsZero() && len(stay) < long:
			stay = append(stay, t.VM)
		case !killed.IsZero() && letIn.After(killed):
			select {
			case next <- time.Since(killed):
			default:
			}
		}
	}
	debug := []string{"log.level=debug", "log.format=json"}
	s.start(debug...)
	b.Cleanup(func() { s.kill() })
	s.ready()
	s.jobTime.Store(int64(time.Hour))
	s.push(long)
	s.running(long)
	s.jobTime.Store(int64(300 * time.Millisecond))
	s.push(waiting)
	s.running(long + 1)

	var ready, begun, followed []time.Duration
	for b.Loop() {
		time.Sleep(time.Duration(500+rand.IntN(1000)) * time.Millisecond) // wherever it is then
		s.push(waiting / 4)
		log, err := os.Stat(s.file("log"))
		require.NoError(b, err)
		mu.Lock()
		killed = time.Now()
		mu.Unlock()
		select {
		case <-next: // the last round's second
		default:
		}
		s.kill()
		s.start(debug...)
		s.ready()
		ready = append(ready, time.Since(killed))
		s.until("every guest", func() bool { return s.attached(log.Size(), stay) })
		followed = append(followed, s.lastAttached.Sub(killed))
		begun = append(begun, <-next)
	}
	b.ReportMetric(0, "ns/op")
	percentiles(b, ready, "ready")
	percentiles(b, begun, "job")
	percentiles(b, followed, "followed")
}

// attached reports whether the daemon's log, from there on, says that all these guests are connected again, and notes when the
// last was.
func (s *outside) attached(from int64, vms []string) bool {
	text, err := os.ReadFile(s.file("log"))
	require.NoError(s.b, err)
	s.lastAttached = time.Time{}
	at := map[string]time.Time{}
	for line := range bytes.Lines(text[from:]) {
		var l struct {
			Time    time.Time
			Message string `json:"msg"`
			VM      string `json:"microvm"`
		}
		if bytes.Contains(line, []byte(`"guest endpoint: attached"`)) && json.Unmarshal(line, &l) == nil && at[l.VM].IsZero() {
			at[l.VM] = l.Time
		}
	}
	for _, vm := range vms {
		if at[vm].IsZero() {
			return false
		}
		if at[vm].After(s.lastAttached) {
			s.lastAttached = at[vm]
		}
	}
	return true
}
