package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// GitLab is the model of GitLab: jobs, runners, who gets what, and the webhooks about it. It knows nothing of faults and of
// who calls; those stand around it. Its words are those of the emulated GitLab, and a test holds the two together.
type GitLab struct {
	// Now is its clock, Changed is told of each status that GitLab announces by webhook.
	Now     func() time.Time
	Changed func(j *Job)

	jobs    map[int64]*Job
	order   []int64 // of jobs, by age
	runners map[int64]*Runner
	open    int // jobs that have not ended
	lastID  int64
}

// Job is a job with what only GitLab and its guest know of it.
type Job struct {
	firerunner.Job
	Runner   int64 // who took it; it stays after that runner is deleted
	Graceful bool  // a cancel while it runs waits for the runner to end it
	Timeout  time.Duration
	Handouts []int64 // the runners it was given to

	takes     time.Duration // what its script needs
	fails     bool          // its script fails
	cancelled time.Time     // when a user cancelled it
	ran       []string      // the microVMs in which its script began
}

// Runner is a runner in GitLab.
type Runner struct {
	firerunner.GitLabRunner
	Project int64
	Tags    firerunner.TagSet
	Token   string
	Timeout time.Duration
}

// NewGitLab returns one without jobs and runners.
func NewGitLab(now func() time.Time) *GitLab {
	return &GitLab{Now: now, Changed: func(*Job) {}, jobs: map[int64]*Job{}, runners: map[int64]*Runner{}, lastID: 100}
}

func (g *GitLab) id() int64 { g.lastID++; return g.lastID }

// Push makes a pending job.
func (g *GitLab) Push(project int64, tags firerunner.TagSet, timeout time.Duration) *Job {
	id := g.id()
	j := &Job{Job: firerunner.Job{
		ID: id, ProjectID: project, ProjectPath: fmt.Sprintf("group/project%d", project), PipelineID: id, Name: "job",
		Tags: tags, Status: "created", CreatedAt: g.Now(),
	}, Timeout: timeout}
	g.jobs[id], g.order = j, append(g.order, id)
	j.QueuedAt = g.Now()
	g.open++
	g.move(j, firerunner.JobPending)
	return j
}

// move puts a job into a status. Canceling and skipped are not announced.
func (g *GitLab) move(j *Job, to firerunner.JobStatus) {
	if j.Status == to {
		return
	}
	j.Status = to
	switch {
	case to == firerunner.JobRunning:
		j.StartedAt = g.Now()
	case to.Final():
		j.FinishedAt = g.Now()
		g.open--
	}
	if to != firerunner.JobCanceling && to != firerunner.JobSkipped {
		g.Changed(j)
	}
}

// Cancel is a user's.
func (g *GitLab) Cancel(id int64) {
	j := g.jobs[id]
	switch {
	case j == nil, j.Status.Final(), j.Status == firerunner.JobCanceling:
		return
	case j.Status == firerunner.JobRunning && j.Graceful:
		g.move(j, firerunner.JobCanceling)
	default:
		g.move(j, firerunner.JobCanceled)
	}
}

// Request is a runner that asks for a job: the oldest pending one of its project all of whose tags it has. known = false:
// GitLab does not know the token.
func (g *GitLab) Request(token string, graceful bool) (job *Job, known bool) {
	var r *Runner
	for _, one := range g.runners {
		if one.Token == token {
			r = one
		}
	}
	if r == nil {
		return nil, false
	}
	r.Status = "online"
	if r.Paused {
		return nil, true
	}
	for _, id := range g.order {
		if j := g.jobs[id]; j.Status == firerunner.JobPending && j.ProjectID == r.Project && len(j.Tags) > 0 && covers(r.Tags, j.Tags) {
			j.Runner, j.Graceful, j.Handouts = r.ID, graceful, append(j.Handouts, r.ID)
			if r.Timeout > 0 {
				j.Timeout = min(j.Timeout, r.Timeout)
			}
			g.move(j, firerunner.JobRunning)
			return j, true
		}
	}
	return nil, true
}

func covers(has, wants firerunner.TagSet) bool {
	all := has.List()
	for _, tag := range wants.List() {
		if !slices.Contains(all, tag) {
			return false
		}
	}
	return true
}

// Finish is a runner's last word on its job. false: the job does not run any more, and the word is refused.
func (g *GitLab) Finish(id int64, to firerunner.JobStatus, failure string) bool {
	j := g.jobs[id]
	if j == nil || j.Status != firerunner.JobRunning && j.Status != firerunner.JobCanceling {
		return false
	}
	if j.Status == firerunner.JobCanceling {
		to = firerunner.JobCanceled
	}
	if to == firerunner.JobFailed {
		j.Failure = failure
	}
	g.move(j, to)
	return true
}

// Token is a job's own, which goes with the job to whom GitLab gives it.
func (j *Job) Token() firerunner.Secret { return firerunner.Secret(fmt.Sprint("glcbt-", j.ID)) }

// stuckGrace is how long after its timeout GitLab fails a job that nobody speaks of any more.
const stuckGrace = time.Minute

// SweepTimeouts fails the jobs whose runner must be dead.
func (g *GitLab) SweepTimeouts() {
	for _, id := range g.order {
		j := g.jobs[id]
		if (j.Status == firerunner.JobRunning || j.Status == firerunner.JobCanceling) && g.Now().Sub(j.StartedAt) > j.Timeout+stuckGrace {
			g.Finish(id, firerunner.JobFailed, "stuck_or_timeout_failure")
		}
	}
}

// AddRunner makes a runner.
func (g *GitLab) AddRunner(r firerunner.CredentialRequest) *Runner {
	id := g.id()
	made := &Runner{
		GitLabRunner: firerunner.GitLabRunner{ID: id, Description: r.Description, Status: "never_contacted"},
		Project:      r.ProjectID, Tags: r.Tags, Token: fmt.Sprintf("glrt-%d", id), Timeout: r.MaxTimeout,
	}
	g.runners[id] = made
	return made
}

// seen is a job as the API shows it: a runner that was deleted is not told any more.
func (g *GitLab) seen(j *Job) firerunner.Job {
	out := j.Job
	out.SeenAt = g.Now()
	if j.Runner != 0 && g.runners[j.Runner] != nil {
		out.GitLabID = j.Runner
	}
	return out
}
