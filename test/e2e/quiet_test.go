package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/test/remains"
)

// settled is how long the removal of what a job had may take. It is a promise of ten seconds on a machine that has
// nothing else to do.
const settled = time.Minute

// quiet waits until no job, runner or microVM is left, and holds the site to what must be true then. A test calls it
// between scenarios; each site ends with it.
func (s *site) quiet() {
	s.t.Helper()
	began := time.Now()
	within(settled, func() bool { return len(s.left()) == 0 })
	for _, what := range s.left() {
		s.t.Errorf("left after %s: %s", settled, what)
	}
	s.t.Logf("quiet after %.1f s", time.Since(began).Seconds())
	s.account()
	for _, what := range s.observer.found() {
		s.t.Error(what)
	}
}

// end ends the site: quiet, then the daemon, then what even the daemon may not leave.
func (s *site) end() {
	defer s.dispose()
	if s.store == nil {
		return // it did not even start
	}
	if s.t.Failed() {
		s.t.Logf("timeline:\n%s", tail(s.timeline(), 60))
		s.t.Logf("daemon:\n%s", tail(readAll(s.logFile()), 40))
		return
	}
	s.quiet()
	s.observer.lookAtFiles(s.state()) // before the store is closed, which removes its write-ahead log
	if s.daemon.lives() {
		s.stop()
	}
	if err := s.store.Close(); err != nil {
		s.t.Errorf("closing the store: %v", err)
	}
	s.store = nil
	s.observer.close()
	s.observer.lookAtFiles(s.state())
	s.observer.search("daemon's log", []byte(readAll(s.logFile())))
	for _, what := range slices.Concat(s.observer.found(), s.remains()) {
		s.t.Error(what)
	}
	lines, odd := s.log()
	for _, text := range odd {
		s.t.Errorf("the daemon said outside its log: %s", text) // a data race says so here
	}
	for _, l := range lines {
		if l.Level == "ERROR" {
			s.t.Errorf("the daemon logged an error: %s %s", l.Message, l.Text)
		}
	}
}

// dispose ends what a failed test left.
func (s *site) dispose() {
	if s.daemon != nil && s.daemon.lives() {
		s.daemon.signal(syscall.SIGKILL)
		<-s.daemon.ended
	}
	s.observer.close()
	if s.store != nil {
		_ = s.store.Close()
	}
	for _, p := range remains.Processes(s.dir) { // shims first or not: a microVM dies with its shim
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
	within(settled, func() bool {
		for _, dir := range s.cgroups() {
			_ = os.Remove(dir) // not while a process is in it
		}
		return len(remains.Processes(s.dir)) == 0 && len(s.cgroups()) == 0
	})
}

// left is what is there of jobs, in words. A daemon that runs is not.
func (s *site) left() []string {
	var left []string
	for _, r := range s.rows(firerunner.RunnerQuery{Live: true}) {
		left = append(left, fmt.Sprintf("runner %s, which is %s", r.ID, r.State))
	}
	for _, r := range s.gitlab.Runners() {
		left = append(left, fmt.Sprintf("runner %d in GitLab, %s", r.ID, r.Description))
	}
	for _, p := range remains.Processes(s.dir) {
		if p.PID != s.daemon.cmd.Process.Pid {
			left = append(left, fmt.Sprintf("process %d, %s", p.PID, p.Name()))
		}
	}
	entries, _ := os.ReadDir(s.state("vms"))
	for _, e := range entries {
		if e.Name() != "uids.lock" {
			left = append(left, "a file of a microVM, "+e.Name())
		}
	}
	for _, dir := range s.cgroups() {
		if !strings.HasSuffix(dir, s.installation()) {
			left = append(left, "a control group, "+dir)
		}
	}
	return left
}

// remains is what is left of a daemon that has ended, besides what its next start needs.
func (s *site) remains() []string {
	var left []string
	for _, p := range remains.Processes(s.dir) {
		left = append(left, fmt.Sprintf("after the daemon: process %d, %s", p.PID, p.Name()))
	}
	for _, path := range remains.Files(s.dir) {
		left = append(left, "after the daemon: "+path)
	}
	for _, dir := range s.cgroups() {
		left = append(left, "after the daemon: the control group "+dir)
	}
	return left
}

// cgroups returns the control groups of the site, the innermost first.
func (s *site) cgroups() []string { return remains.Cgroups(s.installation()) }

// installation is the mark on all that the site makes: of several controllers one has chosen it.
func (s *site) installation() string {
	if s.mark != "" {
		return s.mark
	}
	return strings.TrimSpace(readAll(s.state("installation")))
}

// account holds every job and runner of the site to what must always be true of them.
func (s *site) account() {
	s.t.Helper()
	takers, systems := map[int64]int64{}, map[string]int64{}
	for _, j := range s.gitlab.Jobs(gitlabtest.JobFilter{}) {
		if len(j.Handouts) > 1 {
			s.t.Errorf("job %d was handed out %d times", j.ID, len(j.Handouts))
		}
		for _, h := range j.Handouts {
			if other, used := takers[h.RunnerID]; used {
				s.t.Errorf("GitLab runner %d had two jobs: %d and %d", h.RunnerID, other, j.ID)
			}
			if other, used := systems[h.SystemID]; used {
				s.t.Errorf("one microVM (%s) had two jobs: %d and %d", h.SystemID, other, j.ID)
			}
			takers[h.RunnerID], systems[h.SystemID] = j.ID, j.ID
		}
	}
	had := map[int64]string{}
	for _, r := range s.rows(firerunner.RunnerQuery{}) {
		if r.State == firerunner.Gone && r.Outcome == "" {
			s.t.Errorf("runner %s is gone without an outcome", r.ID)
		}
		if other, taken := had[r.JobID]; taken && r.JobID != 0 {
			s.t.Errorf("runners %s and %s both took job %d", other, r.ID, r.JobID)
		}
		had[r.JobID] = r.ID
	}
	at := map[string]firerunner.State{}
	for _, e := range s.events(firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventMoved}}) {
		if e.To <= at[e.RunnerID] {
			s.t.Errorf("runner %s went back from %s to %s", e.RunnerID, at[e.RunnerID], e.To)
		}
		at[e.RunnerID] = e.To
	}
	made := map[string]int{}
	lines, _ := s.log()
	for _, l := range lines {
		if l.Message == "microVM made" {
			made[l.VM]++
		}
	}
	for vm, n := range made {
		if n > 1 {
			s.t.Errorf("microVM %s was made %d times", vm, n)
		}
	}
}

// patiently is a context for calls to the emulator that wait.
func (s *site) patiently() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.t.Context(), patience)
}
