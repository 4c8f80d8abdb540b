package gitlabtest

import (
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// wireVariable is a variable as a runner gets it.
type wireVariable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	File   bool   `json:"file,omitempty"`
	Masked bool   `json:"masked"`
	Raw    bool   `json:"raw,omitempty"`
}

// variables are a job's variables, the weaker first: predefined, the file's, the job's, the project's.
// Source: https://docs.gitlab.com/ci/variables/predefined_variables/
func (s *Server) variables(j *job) []wireVariable {
	var out []wireVariable
	public := func(key, value string) { out = append(out, wireVariable{Key: key, Value: value, Public: true}) }
	secret := func(key, value string, masked bool) {
		out = append(out, wireVariable{Key: key, Value: value, Masked: masked})
	}
	p, pl := j.project, j.pipeline
	server, err := url.Parse(s.external)
	if err != nil {
		server = &url.URL{}
	}
	port := server.Port()
	if port == "" {
		port = map[string]string{"https": "443"}[server.Scheme]
		if port == "" {
			port = "80"
		}
	}
	title, description, _ := strings.Cut(pl.commit.message, "\n")

	public("CI", "true")
	public("GITLAB_CI", "true")
	public("CI_PIPELINE_ID", strconv.FormatInt(pl.ID, 10))
	public("CI_PIPELINE_IID", strconv.FormatInt(pl.IID, 10))
	public("CI_PIPELINE_URL", fmt.Sprintf("%s/-/pipelines/%d", p.WebURL, pl.ID))
	public("CI_PIPELINE_SOURCE", pl.Source)
	public("CI_PIPELINE_CREATED_AT", pl.CreatedAt.Format("2006-01-02T15:04:05Z"))
	public("CI_JOB_ID", strconv.FormatInt(j.ID, 10))
	public("CI_JOB_NAME", j.Name)
	public("CI_JOB_NAME_SLUG", slug(j.Name))
	public("CI_JOB_STAGE", j.Stage)
	public("CI_JOB_URL", fmt.Sprintf("%s/-/jobs/%d", p.WebURL, j.ID))
	public("CI_JOB_GROUP_NAME", strings.TrimSuffix(j.Name, fmt.Sprintf(" %d/%d", j.spec.Node, j.spec.NodeTotal)))
	secret("CI_JOB_TOKEN", j.token, true)
	if !j.StartedAt.IsZero() {
		public("CI_JOB_STARTED_AT", j.StartedAt.Format("2006-01-02T15:04:05Z"))
	}
	if j.spec.Node > 0 {
		public("CI_NODE_INDEX", strconv.Itoa(j.spec.Node))
	}
	public("CI_NODE_TOTAL", strconv.Itoa(max(j.spec.NodeTotal, 1)))
	secret("CI_REGISTRY_USER", "gitlab-ci-token", false)
	secret("CI_REGISTRY_PASSWORD", j.token, true)
	secret("CI_REPOSITORY_URL", s.cloneURL(j), false)
	secret("CI_DEPENDENCY_PROXY_PASSWORD", j.token, true)
	public("CI_SERVER", "yes")
	public("CI_SERVER_URL", s.external)
	public("CI_SERVER_HOST", server.Hostname())
	public("CI_SERVER_FQDN", server.Host)
	public("CI_SERVER_PORT", port)
	public("CI_SERVER_PROTOCOL", server.Scheme)
	public("CI_SERVER_NAME", "GitLab")
	public("CI_SERVER_VERSION", s.cfg.Version)
	major, rest, _ := strings.Cut(s.cfg.Version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	public("CI_SERVER_VERSION_MAJOR", major)
	public("CI_SERVER_VERSION_MINOR", minor)
	public("CI_API_V4_URL", s.external+apiPrefix)
	public("CI_PROJECT_ID", strconv.FormatInt(p.ID, 10))
	public("CI_PROJECT_NAME", p.Name)
	public("CI_PROJECT_TITLE", p.Name)
	public("CI_PROJECT_PATH", p.Path)
	public("CI_PROJECT_PATH_SLUG", slug(p.Path))
	public("CI_PROJECT_NAMESPACE", p.Namespace)
	public("CI_PROJECT_NAMESPACE_ID", strconv.FormatInt(p.group, 10))
	public("CI_PROJECT_ROOT_NAMESPACE", strings.SplitN(p.Namespace, "/", 2)[0])
	public("CI_PROJECT_URL", p.WebURL)
	public("CI_PROJECT_VISIBILITY", "private")
	public("CI_DEFAULT_BRANCH", p.DefaultBranch)
	public("CI_CONFIG_PATH", ciFileName)
	public("CI_COMMIT_SHA", pl.SHA)
	public("CI_COMMIT_SHORT_SHA", pl.SHA[:8])
	public("CI_COMMIT_BEFORE_SHA", pl.BeforeSHA)
	public("CI_COMMIT_REF_NAME", pl.Ref)
	public("CI_COMMIT_REF_SLUG", slug(pl.Ref))
	public("CI_COMMIT_BRANCH", pl.Ref)
	public("CI_COMMIT_REF_PROTECTED", strconv.FormatBool(j.protected))
	public("CI_COMMIT_MESSAGE", pl.commit.message)
	public("CI_COMMIT_TITLE", title)
	public("CI_COMMIT_DESCRIPTION", strings.TrimSpace(description))
	public("CI_COMMIT_TIMESTAMP", pl.commit.at.Format("2006-01-02T15:04:05Z07:00"))
	public("CI_COMMIT_AUTHOR", authorName+" <"+authorEmail+">")
	public("GITLAB_USER_ID", strconv.Itoa(userID))
	public("GITLAB_USER_LOGIN", userName)
	public("GITLAB_USER_NAME", userFullName)
	public("GITLAB_USER_EMAIL", userEmail)
	if j.spec.Image != nil {
		public("CI_JOB_IMAGE", j.spec.Image.Name)
	}
	if j.spec.Timeout > 0 {
		public("CI_JOB_TIMEOUT", strconv.Itoa(int(j.spec.Timeout.Seconds())))
	}
	for _, list := range [][]Variable{pl.file.Variables, j.spec.Variables} {
		for _, v := range list {
			out = append(out, wireVariable{Key: v.Key, Value: v.Value, Public: true, Raw: v.Raw})
		}
	}
	for _, v := range p.variables {
		if !v.Protected || j.protected {
			out = append(out, wireVariable{Key: v.Key, Value: v.Value, File: v.File, Masked: v.Masked, Raw: v.Raw})
		}
	}
	return out
}

// cloneURL carries the job's token, as GitLab's does.
func (s *Server) cloneURL(j *job) string {
	scheme, rest, _ := strings.Cut(j.project.CloneURL, "://")
	return scheme + "://gitlab-ci-token:" + j.token + "@" + rest
}

// expandTags puts variables into tags, which GitLab does once, when the job is made.
// Source: https://docs.gitlab.com/ci/yaml/#tags
func (s *Server) expandTags(j *job) []string {
	if len(j.spec.Tags) == 0 {
		return []string{}
	}
	var values map[string]string
	out := make([]string, len(j.spec.Tags))
	for i, tag := range j.spec.Tags {
		if strings.Contains(tag, "$") {
			if values == nil {
				values = map[string]string{}
				for _, v := range s.variables(j) {
					values[v.Key] = v.Value
				}
			}
			tag = os.Expand(tag, func(key string) string { return values[key] })
		}
		out[i] = tag
	}
	return out
}

// slug is lower case, at most 63 characters, with - for all but 0-9 and a-z.
func slug(text string) string {
	out := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, strings.ToLower(text))
	return strings.Trim(out[:min(len(out), 63)], "-")
}
