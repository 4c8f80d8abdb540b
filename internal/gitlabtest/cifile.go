package gitlabtest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CIFile is a .gitlab-ci.yml after parsing: defaults applied, parallel jobs multiplied, references checked.
// It is a subset of https://docs.gitlab.com/ci/yaml/; what is outside the subset is refused by name and line.
type CIFile struct {
	Stages    []string // with .pre and .post
	Variables []Variable
	Jobs      []*JobSpec // in the order of the file
}

// JobSpec is one job as the file describes it.
type JobSpec struct {
	Name         string
	Line         int
	Stage        string
	BeforeScript []string
	Script       []string
	AfterScript  []string
	Variables    []Variable
	Tags         []string
	Image        *Image
	Services     []*Image
	Artifacts    *ArtifactSpec
	When         string // on_success, on_failure, always, manual
	AllowFailure bool
	AllowCodes   []int // allow_failure:exit_codes
	Timeout      time.Duration
	Needs        []Need   // nil: the job waits for the stages before its own
	HasNeeds     bool     // needs: [] is not the same as none
	Dependencies []string // artifacts to fetch; nil: those of all jobs before, or of Needs
	HasDeps      bool
	Retry        retrySpec
	Node         int // 1-based among parallel copies; 0 is not parallel
	NodeTotal    int

	base string // what parallel copies are called together
}

// Image is a container image; the emulator only passes it on.
type Image struct {
	Name       string   `json:"name"`
	Alias      string   `json:"alias,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Command    []string `json:"command,omitempty"`
	PullPolicy []string `json:"pull_policy,omitempty"`
}

// ArtifactSpec says what a job leaves behind.
type ArtifactSpec struct {
	Name      string
	Paths     []string
	Exclude   []string
	Untracked bool
	When      string // on_success, on_failure, always
	ExpireIn  string
}

// Need is one entry of needs.
type Need struct {
	Job       string
	Artifacts bool
	Optional  bool
}

const (
	maxCIFileBytes = 1 << 20
	maxCIJobs      = 1000
)

// ParseCIFile reads a .gitlab-ci.yml. Its error names every problem, each with its line.
func ParseCIFile(data []byte) (*CIFile, error) {
	if len(data) > maxCIFileBytes {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %d bytes are more than %d", len(data), maxCIFileBytes)
	}
	p := &ciParser{}
	f := p.file(data)
	if len(p.problems) > 0 {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %w", errors.Join(p.sorted()...))
	}
	return f, nil
}

type ciProblem struct {
	line int
	text string
}

func (e ciProblem) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.text) }

type ciParser struct {
	problems []ciProblem
	visited  int // nodes; aliases can make a small file large
}

const maxCIProblems = 50

func (p *ciParser) fail(line int, format string, args ...any) {
	if len(p.problems) < maxCIProblems {
		p.problems = append(p.problems, ciProblem{line: line, text: fmt.Sprintf(format, args...)})
	}
}

func (p *ciParser) sorted() []error {
	slices.SortStableFunc(p.problems, func(a, b ciProblem) int { return cmp.Compare(a.line, b.line) })
	out := make([]error, len(p.problems))
	for i, problem := range p.problems {
		out[i] = problem
	}
	return out
}

// check holds the parsed file to what only the whole of it can tell.
func (p *ciParser) check(f *CIFile) {
	visible := 0
	byName := map[string][]*JobSpec{}
	for _, j := range f.Jobs {
		byName[j.Name] = append(byName[j.Name], j)
		if j.Stage != ".pre" && j.Stage != ".post" {
			visible++
		}
		if !slices.Contains(f.Stages, j.Stage) {
			p.fail(j.Line, "job %q: stage %q is not in stages: %s", j.Name, j.Stage, strings.Join(f.Stages, ", "))
		}
	}
	if visible == 0 && len(p.problems) == 0 {
		p.fail(1, "no visible job: a file needs at least one job that is not in .pre or .post")
	}
	for _, j := range f.Jobs {
		for _, n := range j.Needs {
			if byName[n.Job] == nil && f.parallel(n.Job) == nil && !n.Optional {
				p.fail(j.Line, "job %q: needs %q, which is no job of this file", j.Name, n.Job)
			}
		}
		for _, d := range j.Dependencies {
			if byName[d] == nil && f.parallel(d) == nil {
				p.fail(j.Line, "job %q: depends on %q, which is no job of this file", j.Name, d)
			}
		}
	}
	if len(p.problems) == 0 {
		p.checkCycles(f)
	}
}

// parallel are the copies of a parallel job, which needs and dependencies name by their common name.
func (f *CIFile) parallel(name string) []*JobSpec {
	var out []*JobSpec
	for _, j := range f.Jobs {
		if j.Node > 0 && j.base == name {
			out = append(out, j)
		}
	}
	return out
}

func parallelName(name string, node, total int) string {
	return fmt.Sprintf("%s %d/%d", name, node, total)
}

// before are the jobs that must end before j is looked at.
func (f *CIFile) before(j *JobSpec) []*JobSpec {
	var out []*JobSpec
	if !j.HasNeeds {
		stage := slices.Index(f.Stages, j.Stage)
		for _, other := range f.Jobs {
			if slices.Index(f.Stages, other.Stage) < stage {
				out = append(out, other)
			}
		}
		return out
	}
	for _, n := range j.Needs {
		out = append(out, f.named(n.Job)...)
	}
	return out
}

func (f *CIFile) named(name string) []*JobSpec {
	for _, j := range f.Jobs {
		if j.Name == name {
			return []*JobSpec{j}
		}
	}
	return f.parallel(name)
}

// checkCycles starts jobs in rounds, as a pipeline where all succeed would; what never starts is in a cycle.
func (p *ciParser) checkCycles(f *CIFile) {
	started := map[*JobSpec]bool{}
	waits := make(map[*JobSpec][]*JobSpec, len(f.Jobs))
	for _, j := range f.Jobs {
		if j.HasNeeds {
			waits[j] = f.before(j)
		}
	}
	stageOf := func(j *JobSpec) int { return slices.Index(f.Stages, j.Stage) }
	for progress := true; progress; {
		progress = false
		first := len(f.Stages) // the earliest stage with a job that has not started
		for _, j := range f.Jobs {
			if !started[j] {
				first = min(first, stageOf(j))
			}
		}
		for _, j := range f.Jobs {
			if started[j] {
				continue
			}
			ready := stageOf(j) <= first
			if j.HasNeeds {
				ready = !slices.ContainsFunc(waits[j], func(b *JobSpec) bool { return !started[b] })
			}
			if ready {
				started[j], progress = true, true
			}
		}
	}
	for _, j := range f.Jobs {
		if !started[j] {
			p.fail(j.Line, "job %q: its needs form a circle", j.Name)
		}
	}
}
