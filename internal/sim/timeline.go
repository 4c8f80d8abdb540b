package sim

import (
	"fmt"
	"log/slog"
)

// say adds a line to the timeline.
func (w *world) say(what string, fields ...any) {
	if w.o.Tell == nil {
		return
	}
	line := fmt.Sprintf("%10.4f %s", w.clock().Seconds(), what)
	for i := 0; i+1 < len(fields); i += 2 {
		if text := fmt.Sprint(fields[i+1]); text != "" && text != "0" && text != "state(0)" {
			line += fmt.Sprintf(" %v=%s", fields[i], text)
		}
	}
	w.lineMu.Lock()
	defer w.lineMu.Unlock()
	w.o.Tell(line)
}

// trace adds to the sum of everything that happened outside of the store.
func (w *world) trace(what, a, b string) {
	fmt.Fprintf(w.sum, "%v %s %s %s\n", w.clock(), what, a, b)
}

// logger puts what a daemon logs into the timeline, as long as it lives.
func (w *world) logger(d *daemon) *slog.Logger {
	if w.o.Tell == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(lineWriter{w, d}, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

type lineWriter struct {
	w *world
	d *daemon
}

func (l lineWriter) Write(line []byte) (int, error) {
	if !l.d.dead.Load() {
		l.w.say(fmt.Sprintf("  log: %s", line[:max(len(line)-1, 0)]))
	}
	return len(line), nil
}
