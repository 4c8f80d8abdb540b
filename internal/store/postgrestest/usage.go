package postgrestest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ, 100 a second on every Linux that Go knows.
const tick = 10 * time.Millisecond

// ProcessorTime is what all processes of the server have used so far, those that have ended included.
func (s *Server) ProcessorTime() (time.Duration, error) {
	file, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	master, _, _ := strings.Cut(string(file), "\n")
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile: it is in its parent's sum, the next time
		}
		// proc(5): pid (comm) state ppid ... utime(14) stime(15) cutime(16) cstime(17)
		_, rest, ok := strings.Cut(string(stat), ") ")
		field := strings.Fields(rest)
		if !ok || len(field) < 15 {
			return 0, fmt.Errorf("%s is not as in proc(5): %.100q", path, stat)
		}
		of := field[11:13]
		switch pid := filepath.Base(filepath.Dir(path)); master {
		case pid:
			of = field[11:15]
		case field[1]:
		default:
			continue
		}
		for _, f := range of {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}
