package gitlabtest

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Project is a project with a real bare git repository.
type Project struct {
	ID            int64
	Path          string // group/name
	Name          string
	Namespace     string
	DefaultBranch string
	WebURL        string
	CloneURL      string // over HTTP, without credentials
	CreatedAt     time.Time
}

// Variable is a CI/CD variable.
type Variable struct {
	Key, Value string
	Masked     bool // hidden in the job log by the runner
	Protected  bool // only for jobs on the default branch, the one protected branch here
	File       bool // given to the job as the path of a file
	Raw        bool // no expansion of $OTHER inside
}

type project struct {
	Project
	dir       string  // the bare repository
	groupIDs  []int64 // of all groups above it
	group     int64   // the nearest one
	variables []Variable
	hooks     []*hook
	pipelines int64 // how many were made: the next one's iid
}

var projectPath = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$`)

// CreateProject makes a project "group/name" whose repository holds files in one commit on main.
// No pipeline is made: that is what [Server.Push] and [Server.RunPipeline] do.
func (s *Server) CreateProject(path string, files map[string]string) (*Project, error) {
	if !projectPath.MatchString(path) {
		return nil, fmt.Errorf("creating project %q: the path is not of the form group/name", path)
	}
	cut := strings.LastIndex(path, "/")
	p := &project{
		Project: Project{
			Path: path, Name: path[cut+1:], Namespace: path[:cut], DefaultBranch: "main",
			WebURL: s.external + "/" + path, CloneURL: s.external + "/" + path + ".git", CreatedAt: s.now(),
		},
		dir: filepath.Join(s.cfg.Dir, "repositories", filepath.FromSlash(path)+".git"),
	}
	s.mu.Lock()
	if s.state.byPath[path] != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("creating project %q: the path is taken", path)
	}
	s.state.byPath[path] = p // reserves it
	s.mu.Unlock()

	err := initRepository(s.ctx, p.dir, p.DefaultBranch)
	if err == nil {
		_, err = commitFiles(s.ctx, p.dir, p.DefaultBranch, "Initial commit", files, s.now())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.state.byPath, path)
		return nil, fmt.Errorf("creating project %q: %w", path, err)
	}
	p.ID = s.state.nextID("project")
	for at, c := range p.Namespace + "/" {
		if c != '/' {
			continue
		}
		group := p.Namespace[:at]
		if s.state.groups[group] == 0 {
			s.state.groups[group] = s.state.nextID("group")
		}
		p.group = s.state.groups[group]
		p.groupIDs = append(p.groupIDs, p.group)
	}
	s.state.projects[p.ID] = p
	s.log.Info("project created", "project", p.ID, "path", path)
	s.touch()
	out := p.Project
	return &out, nil
}

// SetVariable gives every later pipeline's jobs a project variable; the same key replaces.
func (s *Server) SetVariable(projectID int64, v Variable) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.state.projects[projectID]
	if p == nil {
		return fmt.Errorf("setting variable %q: no project %d", v.Key, projectID)
	}
	// GitLab masks only one line of at least 8 characters.
	// Source: https://docs.gitlab.com/ci/variables/#mask-a-cicd-variable
	if v.Masked && (len(v.Value) < 8 || strings.ContainsAny(v.Value, "\r\n ")) {
		return fmt.Errorf("setting variable %q: a masked value is one line of at least 8 characters without spaces", v.Key)
	}
	p.variables = slices.DeleteFunc(p.variables, func(old Variable) bool { return old.Key == v.Key })
	p.variables = append(p.variables, v)
	return nil
}

// projectByRef finds a project by its id or its full path. The caller holds mu.
func (s *Server) projectByRef(ref string) *project {
	if id, err := strconv.ParseInt(ref, 10, 64); err == nil {
		return s.state.projects[id]
	}
	if p := s.state.byPath[ref]; p != nil && p.ID != 0 {
		return p
	}
	return nil
}

func (s *Server) groupExists(id int64) bool {
	for _, have := range s.state.groups {
		if have == id {
			return true
		}
	}
	return false
}

// project finds the project in the path and holds the caller to a role in it.
func (c *call) project(least Role) (*project, error) {
	p := c.s.projectByRef(c.r.PathValue("id"))
	if p == nil || c.token.role(p.ID) == 0 {
		return nil, notFound("Project")
	}
	if c.token.role(p.ID) < least {
		return nil, forbidden("")
	}
	return p, nil
}

func (c *call) getProject() (any, error) {
	p, err := c.project(Reporter)
	if err != nil {
		return nil, err
	}
	return c.s.projectView(p), nil
}

// listProjects takes membership, simple, search, min_access_level, id_after and sort.
// Source: https://docs.gitlab.com/api/projects/#list-all-projects
func (c *call) listProjects() (any, error) {
	least, err := c.params.number("min_access_level")
	if err != nil {
		return nil, err
	}
	after, err := c.params.number("id_after")
	if err != nil {
		return nil, err
	}
	all := []*project{}
	for _, p := range c.s.state.projects {
		role := c.token.role(p.ID)
		if role > 0 && role >= Role(least) && p.ID > after && strings.Contains(p.Path, c.params.text("search")) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *project) int { return int(b.ID - a.ID) })
	if c.params.text("sort") == "asc" {
		slices.Reverse(all)
	}
	return pageViews(c, all, true, c.s.projectView)
}

func (p *project) brief() map[string]any {
	return map[string]any{
		"id": p.ID, "name": p.Name, "name_with_namespace": p.displayName(), "path": p.Name,
		"path_with_namespace": p.Path, "description": nil, "created_at": apiTime(p.CreatedAt),
	}
}

func (p *project) displayName() string {
	return strings.ReplaceAll(p.Path, "/", " / ")
}

func (p *project) sshURL() string { return "git@gitlab.example.com:" + p.Path + ".git" }

func (s *Server) projectView(p *project) map[string]any {
	v := p.brief()
	for k, extra := range map[string]any{
		"default_branch": p.DefaultBranch, "web_url": p.WebURL, "http_url_to_repo": p.CloneURL, "ssh_url_to_repo": p.sshURL(),
		"visibility": "private", "archived": false, "jobs_enabled": true, "shared_runners_enabled": true,
		"group_runners_enabled": true, "builds_access_level": "private", "empty_repo": false, "topics": []string{},
		"build_timeout": int64(s.cfg.JobTimeout / time.Second), "ci_config_path": "", "last_activity_at": apiTime(p.CreatedAt),
		"namespace": map[string]any{
			"id": p.group, "name": p.Namespace, "path": p.Namespace, "kind": "group", "full_path": p.Namespace,
			"web_url": s.external + "/groups/" + p.Namespace,
		},
	} {
		v[k] = extra
	}
	return v
}
