package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// Report is what came of a run. All was true if there are no problems.
type Report struct {
	Seed uint64  `json:"seed"`
	Took float64 `json:"seconds"`

	Jobs      int            `json:"jobs"` // GitLab's retries included
	Ended     map[string]int `json:"ended"`
	Retries   int            `json:"retries"` // that GitLab made
	MicroVMs  int            `json:"microvms_booted"`
	Kills     int            `json:"controller_kills"`
	VMKills   int            `json:"microvm_kills"`
	RealKills int            `json:"real_microvm_kills"`

	Hooks     int64 `json:"webhooks"` // that GitLab meant to send
	HooksLost int   `json:"webhooks_lost"`
	Doubled   int   `json:"webhooks_doubled"`
	Reordered int   `json:"webhooks_reordered"`
	Errors    int   `json:"gitlab_errors"` // 5xx

	NextJob     Times    `json:"next_job"`       // from a kill until a job starts on that database that waited for it
	NextReal    Times    `json:"next_real_job"`  // the same with real microVMs, which boot meanwhile
	Serves      Times    `json:"serves"`         // from its start after a kill until a controller answers
	ServesAgain Times    `json:"serves_again"`   // from the kill on: how long it was left dead counts, too
	Told        Times    `json:"told"`           // from the kill of a microVM until GitLab knew
	Evident     Times    `json:"evident"`        // the same from when somebody could know; what is held to its limit
	Left        []string `json:"left"`           // nothing
	Problems    []string `json:"problems"`       // nothing
	Again       string   `json:"again"`          // how to run it again
	Kept        string   `json:"logs,omitempty"` // where the logs are
}

// Times is how long something took, in seconds.
type Times struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func times(all []time.Duration) (t Times) {
	if len(all) == 0 {
		return t
	}
	slices.Sort(all)
	at := func(percent int) float64 { return all[min(len(all)-1, len(all)*percent/100)].Seconds() }
	return Times{Count: len(all), P50: at(50), P99: at(99), Max: all[len(all)-1].Seconds()}
}

func (t Times) String() string {
	if t.Count == 0 {
		return "-"
	}
	return fmt.Sprintf("p50 %6.2f s   p99 %6.2f s   max %6.2f s   of %d", t.P50, t.P99, t.Max, t.Count)
}

// report sums a world up.
func (w *world) report() Report {
	r := Report{Seed: w.Seed, Took: time.Since(w.began).Seconds(), Ended: map[string]int{}, Left: w.left, Problems: slices.Clone(w.ended), Again: w.command()}
	for _, what := range w.left {
		r.Problems = append(r.Problems, "left: "+what)
	}
	if w.fleet != nil {
		w.fleet.mu.Lock()
		r.Problems = append(r.Problems, w.fleet.problems...)
		w.fleet.mu.Unlock()
		for _, h := range w.fleet.hosts {
			r.MicroVMs += h.Counters().Boots
		}
	}
	if w.gitlab == nil {
		return r
	}
	jobs := w.gitlab.Jobs(gitlabtest.JobFilter{})
	r.Jobs, r.Kills, r.VMKills = len(jobs), len(w.kills), len(w.vmKills)
	for _, j := range jobs {
		how := string(j.Status)
		if j.FailureReason != "" {
			how += " " + j.FailureReason
		}
		r.Ended[how]++
		if j.RetryOf != 0 {
			r.Retries++
		}
	}
	var told, evident []time.Duration
	for _, k := range w.vmKills {
		if k.Real {
			r.RealKills++
		}
		if j, _ := w.gitlab.Job(k.Job); j.Status.Finished() {
			told = append(told, j.FinishedAt.Sub(k.At))
			evident = append(evident, j.FinishedAt.Sub(w.evidence(record{Job: j, killed: &k})))
		}
	}
	r.Told, r.Evident = times(told), times(evident)
	for _, s := range w.sites {
		r.HooksLost += int(s.balancer.lost.Load())
		for _, p := range s.projects {
			for _, h := range w.gitlab.Hooks(p.ID) {
				for _, d := range w.gitlab.Deliveries(h.ID) {
					r.Hooks++
					if d.Dropped {
						r.HooksLost++
					}
				}
			}
		}
	}
	r.recoveries(w, jobs)
	for _, f := range w.faults {
		switch {
		case f.Action == gitlabtest.FaultDouble:
			r.Doubled += f.Struck
		case f.Action == gitlabtest.FaultReorder:
			r.Reordered += f.Struck
		case !f.Hook:
			r.Errors += f.Struck
		}
	}
	return r
}

// recoveries is how soon all went on after each kill.
func (r *Report) recoveries(w *world, jobs []gitlabtest.Job) {
	var next, real, serves, again []time.Duration
	for _, k := range w.kills {
		if !k.Served.IsZero() {
			serves, again = append(serves, k.Served.Sub(k.Started)), append(again, k.Served.Sub(k.At))
		}
		var started time.Time // of the first job of its site after the kill
		waits := time.Time{}  // since when a job waited for that, at the kill or after
		for _, j := range jobs {
			if !k.site.has(j.ProjectID) || j.StartedAt.Before(k.At) {
				continue
			}
			if started.IsZero() || j.StartedAt.Before(started) {
				started = j.StartedAt
			}
		}
		for _, j := range jobs {
			if k.site.has(j.ProjectID) && !j.StartedAt.Before(k.At) && !j.QueuedAt.After(started) && (waits.IsZero() || j.QueuedAt.Before(waits)) {
				waits = j.QueuedAt
			}
		}
		if started.IsZero() {
			continue
		}
		if waits.Before(k.At) {
			waits = k.At
		}
		if k.site.real {
			real = append(real, started.Sub(waits))
		} else {
			next = append(next, started.Sub(waits))
		}
	}
	r.NextJob, r.NextReal, r.Serves, r.ServesAgain = times(next), times(real), times(serves), times(again)
}

func (s *site) has(project int64) bool {
	for _, p := range s.projects {
		if p.ID == project {
			return true
		}
	}
	return false
}

// String is the report for people.
func (r Report) String() string {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "  %-26s %s\n", what, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "chaos, seed %d: %.0f s\n", r.Seed, r.Took)
	line("jobs", "%d, %d of them retries by GitLab", r.Jobs, r.Retries)
	for _, how := range sorted(r.Ended) {
		line("  "+how, "%d", r.Ended[how])
	}
	line("microVMs of the fleet", "%d", r.MicroVMs)
	line("controllers killed", "%d times", r.Kills)
	line("microVMs killed", "%d under their jobs, %d of these real", r.VMKills, r.RealKills)
	line("webhooks", "%d: %d lost, %d doubled, %d out of order", r.Hooks, r.HooksLost, r.Doubled, r.Reordered)
	line("GitLab answered with 5xx", "%d times", r.Errors)
	line("kill → next job starts", "%s", r.NextJob)
	line("  in a real microVM", "%s", r.NextReal)
	line("kill → it serves again", "%s", r.ServesAgain)
	line("  of this, its start", "%s", r.Serves)
	line("microVM killed → told", "%s", r.Told)
	line("  since it was evident", "%s, limit %s", r.Evident, promptly)
	line("left", "%d", len(r.Left))
	if len(r.Problems) == 0 {
		b.WriteString("  all of it is true\n")
		return b.String()
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "  WRONG: %s\n", p)
	}
	fmt.Fprintf(&b, "  again: %s\n  logs:  %s\n", r.Again, r.Kept)
	return b.String()
}

func sorted(m map[string]int) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// keep keeps what one wants to see of a run that failed: logs and configurations, the report, GitLab's jobs, the events.
func (w *world) keep(r Report) error {
	if w.Dir == "" {
		return nil
	}
	if err := os.RemoveAll(w.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(w.Dir, 0o755); err != nil {
		return err
	}
	for _, c := range w.controllers() {
		for _, file := range []string{c.log(), c.config()} {
			if err := copyFile(filepath.Join(w.Dir, c.name+"-"+filepath.Base(file)), file); err != nil {
				return err
			}
		}
	}
	if w.gitlab != nil {
		if err := writeJSON(filepath.Join(w.Dir, "jobs.json"), w.gitlab.Jobs(gitlabtest.JobFilter{})); err != nil {
			return err
		}
	}
	for name, events := range w.events {
		if err := writeJSON(filepath.Join(w.Dir, "events-"+name+".json"), events); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(w.Dir, "report.json"), r)
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if closing := out.Close(); err == nil {
		err = closing
	}
	return err
}
