package sim

import (
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// Users, other people's runners, and the webhooks by which GitLab tells of what they do.

// ask makes a job as a user does.
func (w *world) ask(j wish) {
	job := w.gitlab.Push(j.project, j.tags, w.plan.deadlines.JobTimeout)
	job.takes, job.fails = j.takes, j.fails
	w.say("job", "job", job.ID, "project", j.project, "tags", j.tags, "takes", j.takes, "fails", j.fails)
	if j.cancel > 0 {
		w.after(j.cancel, func() { w.cancel(job.ID) })
	}
	if j.foreign > 0 {
		w.after(j.foreign, func() { w.takeAway(job) })
	}
}

func (w *world) cancel(id int64) {
	if j := w.gitlab.jobs[id]; !j.Status.Final() {
		w.say("job cancelled", "job", id)
		j.cancelled = time.Now()
		w.gitlab.Cancel(id)
	}
}

// takeAway is a runner of somebody else that takes a pending job.
func (w *world) takeAway(j *Job) {
	if j.Status != firerunner.JobPending {
		return
	}
	j.Runner, j.Handouts = w.foreign, append(j.Handouts, w.foreign)
	w.gitlab.move(j, firerunner.JobRunning)
	w.after(w.between(time.Second, time.Minute), func() { w.gitlab.Finish(j.ID, firerunner.JobSuccess, "") })
}

func (w *world) anyJob() int64 {
	if len(w.gitlab.order) == 0 {
		return 1
	}
	return w.gitlab.order[w.chance.IntN(len(w.gitlab.order))]
}

// announce sends GitLab's webhooks about a job.
func (w *world) announce(j *Job) {
	w.say("gitlab", "job", j.ID, "status", j.Status, "failure", j.Failure)
	w.trace("job", fmt.Sprint(j.ID), string(j.Status))
	if w.happens(w.faults.hookLost) {
		return
	}
	runner := "null"
	if j.Runner != 0 {
		runner = fmt.Sprintf(`{"id":%d}`, j.Runner)
	}
	body := fmt.Sprintf(`{"object_kind":"build","build_id":%d,"build_status":%q,"project_id":%d,"project":{"path_with_namespace":%q},"runner":%s}`,
		j.ID, j.Status, j.ProjectID, j.ProjectPath, runner)
	key := fmt.Sprintf("%d-%s", j.ID, j.Status)
	times := 1
	if w.happens(w.faults.hookTwice) {
		times = 2
	}
	for range times {
		delay := w.between(5*time.Millisecond, 200*time.Millisecond)
		if w.happens(w.faults.hookLate) {
			delay = w.between(time.Second, 3*time.Minute)
		}
		w.after(delay, func() { w.deliver(key, body) })
	}
}
