package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
)

const (
	// quietTime is how long the files have to stay the same before they are read: an editor writes in several steps.
	quietTime = 300 * time.Millisecond
	// reloadRetry is when a configuration is tried again that is right and could not be put in force.
	reloadRetry = 10 * time.Second
)

// followConfig reads the configuration again at each SIGHUP, and when its files change, until ctx ends.
func (d *daemon) followConfig(ctx context.Context, file string, load func() (*config.Config, error)) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	files := &watchedFiles{file: file, log: d.log, unwatched: map[string]bool{}}
	if d.cfg.WatchConfig && file != "" {
		if err := files.open(); err != nil {
			d.log.Warn("the configuration's files are not watched; SIGHUP reads them again", "error", err)
		}
		defer files.close()
	}
	var again <-chan time.Time
	read := func() {
		files.seen, again = files.print(), nil
		err := d.reload(ctx, func() (*config.Config, error) {
			cfg, err := load()
			files.use(d.inForce.Load(), cfg) // those of a wrong one too: what is wrong may be put right in another file
			return cfg, err
		})
		if err != nil && firerunner.CodeOf(err) != firerunner.Invalid {
			again = time.After(reloadRetry)
		}
	}
	files.use(d.inForce.Load())
	files.seen = files.print()
	if cfg, err := load(); files.watcher != nil && (err != nil || d.differs(cfg)) { // it has changed since the start
		read()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			read()
		case <-again:
			read()
		case <-files.events():
			if files.settled(ctx, hangups) {
				read()
			}
		case err := <-files.errors():
			d.log.Warn("watching the configuration's files: something may have been missed", "error", err)
			if files.settled(ctx, hangups) {
				read()
			}
		}
	}
}

func (d *daemon) differs(cfg *config.Config) bool {
	now, later := d.inForce.Load().Changes(cfg)
	return len(now)+len(later) > 0
}

// watchedFiles are the files of the configuration: its own, and those of secrets. The folders are watched and not the
// files, because editors and Kubernetes put another file, or another symbolic link, in place of the one that was there.
type watchedFiles struct {
	file    string // the configuration's own
	others  []string
	log     *slog.Logger
	watcher *fsnotify.Watcher // nil: nothing is watched
	seen    [sha256.Size]byte // the contents when they were read last

	unwatched map[string]bool // folders that could not be watched when it was tried last
}

func (w *watchedFiles) open() (err error) {
	w.watcher, err = fsnotify.NewWatcher()
	return err
}

func (w *watchedFiles) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}

func (w *watchedFiles) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watchedFiles) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

// use watches the files that these configurations name.
func (w *watchedFiles) use(all ...*config.Config) {
	w.others = nil
	for _, cfg := range all {
		w.others = append(w.others, cfg.Files()...)
	}
	slices.Sort(w.others)
	w.others = slices.Compact(w.others)
	w.watch()
}

// watch is repeated after each event: a folder may be another one now, or a link lead elsewhere.
func (w *watchedFiles) watch() {
	if w.watcher == nil {
		return
	}
	for _, file := range w.all() {
		folders := []string{filepath.Dir(file)}
		if real, err := filepath.EvalSymlinks(file); err == nil {
			folders = append(folders, filepath.Dir(real))
		}
		for _, folder := range folders {
			err := w.watcher.Add(folder)
			if err != nil && !w.unwatched[folder] {
				w.log.Warn("a folder of the configuration is not watched; SIGHUP reads its files again", "folder", folder, "error", err)
			}
			w.unwatched[folder] = err != nil
		}
	}
}

func (w *watchedFiles) all() []string { return append([]string{w.file}, w.others...) }

// print is the fingerprint of all contents. It is never shown: secrets are among them.
func (w *watchedFiles) print() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, file := range w.all() {
		text, err := os.ReadFile(file)
		fmt.Fprintf(h, "%d %s %d %t\n", len(file), file, len(text), err == nil)
		h.Write(text)
		if info, err := os.Stat(file); err == nil {
			fmt.Fprintf(h, "%v\n", info.Mode()) // a secret that others can read is refused
		}
	}
	h.Sum(sum[:0])
	return sum
}

// settled waits until the files stay as they are, and reports whether they differ from what was read last. A folder may see
// many events that are about other files, so that it is the contents that are looked at. SIGHUP does not wait.
func (w *watchedFiles) settled(ctx context.Context, hangups <-chan os.Signal) bool {
	tick := time.NewTicker(quietTime)
	defer tick.Stop()
	for before := w.print(); ; {
		select {
		case <-ctx.Done():
			return false
		case <-hangups:
			return true
		case <-tick.C:
		}
		for drained := false; !drained; {
			select {
			case <-w.watcher.Events:
			default:
				drained = true
			}
		}
		w.watch()
		now := w.print()
		if now == before {
			return now != w.seen
		}
		before = now
	}
}
