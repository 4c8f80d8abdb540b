package main

import (
	"fmt"
	"io"
	"strings"
)

// liveScreen draws a table over itself on a terminal; elsewhere it writes only the lines that changed.
type liveScreen struct {
	to    io.Writer
	live  bool
	lines []string
}

func (s *liveScreen) draw(table string) {
	lines := strings.Split(strings.TrimRight(table, "\n"), "\n")
	if s.live {
		if len(s.lines) > 0 {
			_, _ = fmt.Fprintf(s.to, "\x1b[%dA", len(s.lines))
		}
		for _, line := range lines {
			_, _ = fmt.Fprintf(s.to, "\x1b[2K%s\n", line)
		}
		s.lines = lines
		return
	}
	for i, line := range lines {
		if i >= len(s.lines) || withoutTime(s.lines[i]) != withoutTime(line) {
			_, _ = fmt.Fprintln(s.to, line)
		}
	}
	s.lines = lines
}

// below makes a terminal's next drawing begin below what was written meanwhile.
func (s *liveScreen) below() {
	if s.live {
		s.lines = nil
	}
}

// withoutTime cuts the last column, and how the others are padded, which change without anything happening.
func withoutTime(line string) string {
	fields := strings.Fields(line)
	return strings.Join(fields[:max(len(fields)-1, 0)], " ")
}
