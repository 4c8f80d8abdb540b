package gitlabtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Pipeline is a snapshot of one pipeline.
type Pipeline struct {
	ID         int64
	IID        int64
	ProjectID  int64
	Ref        string
	SHA        string
	BeforeSHA  string
	Source     string // push, api
	Status     Status
	JobIDs     []int64 // of the jobs that count: a retried job's place is its retry's
	CreatedAt  time.Time
	UpdatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
}

type pipeline struct {
	Pipeline
	project *project
	file    *CIFile
	commit  commit
	latest  []*job // in the order of the file
}

func (p *pipeline) snapshot() Pipeline {
	out := p.Pipeline
	out.JobIDs = make([]int64, len(p.latest))
	for i, j := range p.latest {
		out.JobIDs[i] = j.ID
	}
	return out
}

func (p *pipeline) replace(old, with *job) {
	if i := slices.Index(p.latest, old); i >= 0 {
		p.latest = slices.DeleteFunc(p.latest, func(j *job) bool { return j == with })
		p.latest[i] = with
	}
}

// Push commits files on the default branch and, if there is a .gitlab-ci.yml, makes a pipeline.
// A file that cannot be read is an error before anything is committed.
// The pipeline is nil when the project has no CI file.
func (s *Server) Push(projectID int64, files map[string]string) (*Pipeline, error) {
	if content, ok := files[ciFileName]; ok {
		if _, err := ParseCIFile([]byte(content)); err != nil {
			return nil, fmt.Errorf("pushing to project %d: %w", projectID, err)
		}
	}
	p, err := s.projectByID(projectID)
	if err != nil {
		return nil, fmt.Errorf("pushing: %w", err)
	}
	c, err := commitFiles(s.ctx, p.dir, p.DefaultBranch, "Update files", files, s.now())
	if err != nil {
		return nil, fmt.Errorf("pushing to project %d: %w", projectID, err)
	}
	pl, err := s.startPipeline(p, p.DefaultBranch, "push", c)
	if errors.Is(err, errNoCIFile) {
		return nil, nil
	}
	return pl, err
}

// RunPipeline makes a pipeline of what the ref (default: the default branch) holds now.
func (s *Server) RunPipeline(projectID int64, ref string) (*Pipeline, error) {
	p, err := s.projectByID(projectID)
	if err != nil {
		return nil, fmt.Errorf("running a pipeline: %w", err)
	}
	if ref == "" {
		ref = p.DefaultBranch
	}
	c, err := headOf(s.ctx, p.dir, ref)
	if err != nil {
		return nil, fmt.Errorf("running a pipeline: %w", err)
	}
	if c.sha == zeroSHA {
		return nil, fmt.Errorf("running a pipeline: project %s has no branch %q", p.Path, ref)
	}
	return s.startPipeline(p, ref, "api", c)
}

const ciFileName = ".gitlab-ci.yml"

var errNoCIFile = errors.New("the commit holds no " + ciFileName)

func (s *Server) projectByID(id int64) (*project, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.state.projects[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no project %d", id)
}

func (s *Server) startPipeline(p *project, ref, source string, c commit) (*Pipeline, error) {
	content, found, err := readFile(s.ctx, p.dir, c.sha, ciFileName)
	if err != nil {
		return nil, fmt.Errorf("making a pipeline in %s: %w", p.Path, err)
	}
	if !found {
		return nil, fmt.Errorf("making a pipeline in %s: %w", p.Path, errNoCIFile)
	}
	file, err := ParseCIFile([]byte(content))
	if err != nil {
		return nil, fmt.Errorf("making a pipeline in %s: %w", p.Path, err)
	}
	s.mu.Lock()
	id := s.state.nextID("pipeline")
	s.mu.Unlock()
	if err := keepRef(s.ctx, p.dir, fmt.Sprintf("refs/pipelines/%d", id), c.sha); err != nil {
		return nil, fmt.Errorf("making a pipeline in %s: %w", p.Path, err)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	p.pipelines++
	now := s.now()
	pl := &pipeline{
		Pipeline: Pipeline{
			ID: id, IID: p.pipelines, ProjectID: p.ID, Ref: ref, SHA: c.sha, BeforeSHA: c.parent, Source: source,
			Status: StatusCreated, CreatedAt: now, UpdatedAt: now,
		},
		project: p, file: file, commit: c,
	}
	s.state.pipelines[id] = pl
	for _, spec := range file.Jobs {
		s.addJob(pl, spec)
	}
	for _, j := range pl.latest {
		s.fireJobHooks(j)
	}
	s.log.Info("pipeline created", "pipeline", id, "project", p.ID, "jobs", len(pl.latest))
	s.advance(pl)
	s.touch()
	out := pl.snapshot()
	return &out, nil
}

// addJob makes a created job and puts it at the end of the pipeline.
func (s *Server) addJob(pl *pipeline, spec *JobSpec) *job {
	j := &job{
		Job: Job{
			ID: s.state.nextID("job"), Name: spec.Name, Stage: spec.Stage, Status: StatusCreated, ProjectID: pl.ProjectID,
			PipelineID: pl.ID, Ref: pl.Ref, SHA: pl.SHA, AllowFailure: spec.AllowFailure, CreatedAt: s.now(),
			Updates: map[string]int{},
		},
		project: pl.project, pipeline: pl, spec: spec, stage: slices.Index(pl.file.Stages, spec.Stage),
		protected: pl.Ref == pl.project.DefaultBranch,
		token:     s.secret("glcbt-64_"),
	}
	j.Tags = s.expandTags(j)
	s.state.jobs[j.ID] = j
	s.state.jobTokens[j.token] = j
	s.state.jobOrder = append(s.state.jobOrder, j)
	pl.latest = append(pl.latest, j)
	return j
}

// Pipeline is one pipeline; false if there is none.
func (s *Server) Pipeline(id int64) (Pipeline, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.state.pipelines[id]; p != nil {
		return p.snapshot(), true
	}
	return Pipeline{}, false
}

// WaitPipeline waits until the pipeline is finished and returns it.
func (s *Server) WaitPipeline(ctx context.Context, id int64) (Pipeline, error) {
	var last Pipeline
	err := s.await(ctx, func() bool {
		p := s.state.pipelines[id]
		if p == nil {
			return false
		}
		last = p.snapshot()
		return last.Status.Finished()
	})
	if err != nil {
		return last, fmt.Errorf("waiting for pipeline %d, now %q: %w", id, last.Status, err)
	}
	return last, nil
}
