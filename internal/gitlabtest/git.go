package gitlabtest

import (
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// serveGit speaks git's smart HTTP protocol, fetch only, on /<group>/<name>.git/.
// Source: https://git-scm.com/docs/gitprotocol-http
func (s *Server) serveGit(w http.ResponseWriter, r *http.Request) {
	repo, service, ok := cutService(r)
	if !ok {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	p := s.cloneable(r, repo)
	switch {
	case p == nil && !hasBasicAuth(r):
		w.Header().Set("WWW-Authenticate", `Basic realm="GitLab"`)
		http.Error(w, "HTTP Basic: Access denied.", http.StatusUnauthorized)
		return
	case p == nil:
		// GitLab does not tell a foreign project from a missing one, nor a dead token from a wrong one.
		w.Header().Set("WWW-Authenticate", `Basic realm="GitLab"`)
		http.Error(w, "HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect.", http.StatusUnauthorized)
		return
	case service != "git-upload-pack":
		http.Error(w, "You are not allowed to push code to this project.", http.StatusForbidden)
		return
	}
	advertise := r.Method == http.MethodGet
	kind, args := "result", []string{"upload-pack", "--stateless-rpc", p.dir}
	if advertise {
		kind, args = "advertisement", []string{"upload-pack", "--stateless-rpc", "--http-backend-info-refs", p.dir}
	}
	cmd := gitCommand(r.Context(), p.dir, args...)
	if v := r.Header.Get("Git-Protocol"); v != "" && len(v) < 100 {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+v)
	}
	if !advertise {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			zipped, err := gzip.NewReader(r.Body)
			if err != nil {
				http.Error(w, "the body is not gzip", http.StatusBadRequest)
				return
			}
			body = zipped
		}
		cmd.Stdin = body
	}
	w.Header().Set("Content-Type", "application/x-git-upload-pack-"+kind)
	w.Header().Set("Cache-Control", "no-cache")
	if advertise && !strings.Contains(r.Header.Get("Git-Protocol"), "version=2") {
		_, _ = io.WriteString(w, "001e# service=git-upload-pack\n0000")
	}
	cmd.Stdout = w
	if err := cmd.Run(); err != nil {
		s.log.Debug("git upload-pack", "project", p.ID, "error", err)
	}
}

// cutService reads repository and service from the two URLs of the protocol.
func cutService(r *http.Request) (repo, service string, ok bool) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	services := []string{"git-upload-pack", "git-receive-pack"}
	if repo, ok = strings.CutSuffix(path, ".git/info/refs"); ok && r.Method == http.MethodGet {
		service = r.URL.Query().Get("service")
		return repo, service, slices.Contains(services, service)
	}
	if r.Method != http.MethodPost {
		return "", "", false
	}
	for _, service = range services {
		if repo, ok = strings.CutSuffix(path, ".git/"+service); ok {
			return repo, service, true
		}
	}
	return "", "", false
}

func hasBasicAuth(r *http.Request) bool {
	_, _, ok := r.BasicAuth()
	return ok
}

// cloneable finds the repository if the password opens it: a running job's token opens the job's own
// project, a personal access token those of its user.
func (s *Server) cloneable(r *http.Request, repo string) *project {
	user, password, ok := r.BasicAuth()
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.projectByRef(repo)
	if p == nil {
		return nil
	}
	if user == "gitlab-ci-token" {
		j := s.jobByToken(password)
		if j == nil || j.project != p {
			return nil
		}
		return p
	}
	t := s.state.tokens[password]
	if t == nil || t.revoked || t.role(p.ID) == 0 {
		return nil
	}
	if slices.Contains(t.Scopes, "api") || slices.Contains(t.Scopes, "read_repository") {
		return p
	}
	return nil
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
