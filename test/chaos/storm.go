package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/test/remains"
)

// kill is one kill -9 of a controller.
type kill struct {
	Controller string
	At         time.Time
	Started    time.Time // when it was started again
	Served     time.Time // when it served again; zero: it was killed before, or never did
	Waiting    time.Time // since when the job waits that has waited longest, at At or after
	site       *site
}

// vmKill is one kill of a microVM under its job.
type vmKill struct {
	Job  int64
	VM   string
	Real bool
	At   time.Time
}

// stormLimit is an end for a run in which nothing goes on any more.
const stormLimit = 15 * time.Minute

// storm is jobs coming in while controllers and microVMs are killed.
func (w *world) storm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stormLimit)
	defer cancel()
	var feeding, killing sync.WaitGroup
	chance := w.chance(drawPlan)
	for _, s := range w.sites {
		n := w.Jobs
		if s.real {
			n = w.RealJobs
		}
		waves := plan(chance, n, s.real)
		for _, v := range waves {
			for _, j := range v.jobs {
				w.jobs[j.name] = j
			}
		}
		feeding.Go(func() { w.feed(ctx, s, waves) })
	}
	killing.Go(func() { w.killControllers(ctx) })
	for _, s := range w.sites {
		kills, draw := w.VMKills-w.RealVMKills, uint64(drawVMKills)
		if s.real {
			kills, draw = w.RealVMKills, drawRealVMKills
		}
		killing.Go(func() { w.killVMs(ctx, s, kills, w.chance(draw)) })
	}
	feeding.Wait()
	w.fed.Store(true)
	killing.Wait()
	if ctx.Err() != nil {
		w.wrong("the storm was cut short after %s: %v", time.Since(w.began).Round(time.Second), context.Cause(ctx))
	}
}

// sleep waits; false: the world ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// feed pushes the waves of a site, so that there is work for every kill: the nth part of them once the nth part of all
// kills is done, or nothing is left to do.
func (w *world) feed(ctx context.Context, s *site, waves []wave) {
	for i, v := range waves {
		for w.done()*len(waves) < i*(w.Kills+w.VMKills) && !w.idle(s) {
			if !sleep(ctx, 20*time.Millisecond) {
				return
			}
		}
		p, err := w.gitlab.Push(s.projects[v.project].ID, map[string]string{".gitlab-ci.yml": v.ci()})
		if err != nil {
			w.wrong("pushing: %v", err)
			return
		}
		for _, id := range p.JobIDs {
			j, _ := w.gitlab.Job(id)
			if after := w.jobs[j.Name].cancel; after > 0 {
				time.AfterFunc(after, func() { _ = w.gitlab.CancelJob(id) }) // it may have ended
			}
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// done is how many kills are.
func (w *world) done() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int(w.killed.Load()) + len(w.vmKills)
}

// longDeath is every so manieth kill after which a controller stays dead until the others have taken its lease.
const longDeath = 7

// killControllers kills one after the other, and starts each again after a random while, during which the next may die.
func (w *world) killControllers(ctx context.Context) {
	chance := w.chance(drawKills)
	var starting sync.WaitGroup
	defer func() {
		starting.Wait()
		w.calm.Store(true)
	}()
	for n := range w.Kills {
		if !sleep(ctx, time.Duration(300+chance.IntN(3000))*time.Millisecond) {
			return
		}
		all, first := w.controllers(), chance.IntN(64)
		dead := time.Duration(20+chance.IntN(1500)) * time.Millisecond
		for {
			c := all[first%len(all)]
			if _, lives := c.lives(); lives {
				if n%longDeath == longDeath-1 && c.name != realName && w.Controllers > 1 {
					dead = 10*time.Second + time.Duration(chance.IntN(2000))*time.Millisecond
				}
				w.killOne(ctx, c, dead, &starting)
				break
			}
			first++
			if !sleep(ctx, 10*time.Millisecond) {
				return
			}
		}
	}
}

func (w *world) killOne(ctx context.Context, c *controller, dead time.Duration, starting *sync.WaitGroup) {
	k := kill{Controller: c.name, At: time.Now(), site: w.siteOf(c)}
	if _, err := c.signal(ctx, syscall.SIGKILL); err != nil {
		w.wrong("%v", err)
		return
	}
	w.tell("kill %d: controller %s, for %s", w.killed.Add(1), c.name, dead.Round(time.Millisecond))
	w.mu.Lock()
	i := len(w.kills)
	w.kills = append(w.kills, k)
	w.mu.Unlock()
	starting.Go(func() {
		sleep(context.WithoutCancel(ctx), dead)
		started := time.Now()
		if err := c.start(); err != nil {
			w.wrong("%v", err)
			return
		}
		ended, _ := c.lives()
		err := w.serves(ctx, c)
		served := time.Now()
		w.mu.Lock()
		w.kills[i].Started = started
		if err == nil {
			w.kills[i].Served = served
		}
		w.mu.Unlock()
		if err == nil {
			return
		}
		select {
		case <-ended:
			if w.killedAfter(c, started) {
				return // killed again before it served
			}
		default:
		}
		w.wrong("after kill -9: %v", err)
	})
}

// killedAfter reports whether it was us who ended what was started at a time.
func (w *world) killedAfter(c *controller, started time.Time) bool {
	time.Sleep(50 * time.Millisecond) // until who killed it has written that down
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.kills {
		if k.Controller == c.name && k.At.After(started) {
			return true
		}
	}
	return false
}

func (w *world) siteOf(c *controller) *site {
	for _, s := range w.sites {
		for _, has := range s.controllers {
			if has == c {
				return s
			}
		}
	}
	return nil
}

// In the middle of a job is where a microVM is killed: so long after its begin, and before its end. What matters is that
// GitLab has not heard the end of it.
const (
	wellBegun  = 700 * time.Millisecond
	beforeEnds = 1500 * time.Millisecond
)

// killVMs kills microVMs of a site while they run a job, spread over the whole storm.
func (w *world) killVMs(ctx context.Context, s *site, kills int, chance *rand.Rand) {
	for n := 0; n < kills; {
		if !sleep(ctx, time.Duration(50+chance.IntN(150))*time.Millisecond) {
			return
		}
		if w.killed.Load()*int64(kills) < int64(n*w.Kills) || w.Calm && !w.calm.Load() {
			continue
		}
		candidates := w.candidates(s)
		if len(candidates) == 0 {
			if w.fed.Load() && w.idle(s) {
				w.wrong("there was no microVM left to kill on %s: %d of %d", s.name, n, kills)
				return
			}
			continue
		}
		j := candidates[chance.IntN(len(candidates))]
		if vm := w.killVM(ctx, s, j); vm != "" {
			n++
		}
	}
}

// candidates are the jobs that are in their middle.
func (w *world) candidates(s *site) (found []gitlabtest.Job) {
	for _, p := range s.projects {
		for _, j := range w.gitlab.Jobs(gitlabtest.JobFilter{ProjectID: p.ID, Statuses: []gitlabtest.Status{gitlabtest.StatusRunning}}) {
			planned, ran := w.jobs[j.Name], time.Since(j.StartedAt)
			if planned.long && planned.cancel == 0 && ran > wellBegun && ran < planned.takes-beforeEnds && !w.hit(j.ID) {
				found = append(found, j)
			}
		}
	}
	return found
}

func (w *world) hit(job int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.vmKills {
		if k.Job == job {
			return true
		}
	}
	return false
}

// idle reports whether no job of a site is open.
func (w *world) idle(s *site) bool {
	for _, p := range s.projects {
		for _, j := range w.gitlab.Jobs(gitlabtest.JobFilter{ProjectID: p.ID}) {
			if !j.Status.Finished() {
				return false
			}
		}
	}
	return true
}

// killVM kills the microVM of a job, and returns which.
func (w *world) killVM(ctx context.Context, s *site, j gitlabtest.Job) (vm string) {
	at := time.Now()
	if s.real {
		if vm = w.killReal(ctx, s, j); vm == "" {
			return ""
		}
	} else {
		vm = strings.TrimPrefix(j.Handouts[0].SystemID, "r_")
		if !w.fleet.kill(vm) {
			return ""
		}
	}
	w.mu.Lock()
	w.vmKills = append(w.vmKills, vmKill{Job: j.ID, VM: vm, Real: s.real, At: at})
	w.mu.Unlock()
	w.tell("microVM %s is killed under job %d (%s)", vm, j.ID, j.Name)
	return vm
}

// killReal kills the QEMU of a job.
func (w *world) killReal(ctx context.Context, s *site, j gitlabtest.Job) string {
	rows, err := s.store.Runners(ctx, firerunner.RunnerQuery{GitLabID: j.RunnerID})
	if err != nil || len(rows) != 1 {
		return ""
	}
	for _, p := range remains.Processes(s.controllers[0].state(fmt.Sprintf("vms/%s", rows[0].ID))) {
		if strings.HasPrefix(p.Name(), "qemu-system") && syscall.Kill(p.PID, syscall.SIGKILL) == nil {
			return rows[0].ID
		}
	}
	return ""
}
