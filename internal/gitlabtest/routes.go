package gitlabtest

import (
	"net/http"
)

const apiPrefix = "/api/v4"

// call is one REST request on its way: who asks, and with which parameters.
type call struct {
	s      *Server
	w      http.ResponseWriter
	r      *http.Request
	params params
	token  *accessToken
	status int
}

// The scopes that open an endpoint; one of them is enough.
// Source: https://docs.gitlab.com/user/profile/personal_access_tokens/#personal-access-token-scopes
type scopes []string

var (
	scopeAny          scopes
	scopeRead         = scopes{"api", "read_api"}
	scopeWrite        = scopes{"api"}
	scopeUser         = scopes{"api", "read_api", "read_user"}
	scopeCreateRunner = scopes{"api", "create_runner"}
	scopeSeeRunner    = scopes{"api", "read_api", "manage_runner"}
	scopeManageRunner = scopes{"api", "manage_runner"}
)

func (s *Server) routes() {
	s.rest("GET /version", scopeUser, (*call).version)
	s.rest("GET /user", scopeUser, (*call).user)
	s.rest("GET /personal_access_tokens/self", scopeAny, (*call).tokenSelf)

	s.rest("POST /user/runners", scopeCreateRunner, (*call).createRunner)
	s.rest("GET /runners", scopeSeeRunner, (*call).listRunners)
	s.rest("GET /runners/all", scopeSeeRunner, (*call).listAllRunners)
	s.rest("GET /runners/{id}", scopeSeeRunner, (*call).getRunner)
	s.rest("PUT /runners/{id}", scopeManageRunner, (*call).updateRunner)
	s.rest("DELETE /runners/{id}", scopeManageRunner, (*call).deleteRunner)
	s.rest("GET /runners/{id}/jobs", scopeSeeRunner, (*call).listRunnerJobs)
	s.rest("GET /runners/{id}/managers", scopeSeeRunner, (*call).listRunnerSystems)
	s.rest("POST /runners/{id}/reset_authentication_token", scopeManageRunner, (*call).resetRunnerToken)

	s.rest("GET /projects", scopeRead, (*call).listProjects)
	s.rest("GET /projects/{id}", scopeRead, (*call).getProject)
	s.rest("GET /projects/{id}/runners", scopeSeeRunner, (*call).listProjectRunners)
	s.rest("POST /projects/{id}/runners", scopeManageRunner, (*call).assignRunner)
	s.rest("GET /projects/{id}/jobs", scopeRead, (*call).listJobs)
	s.rest("GET /projects/{id}/jobs/{job}", scopeRead, (*call).getJob)
	s.rest("POST /projects/{id}/jobs/{job}/cancel", scopeWrite, (*call).cancelJob)
	s.rest("POST /projects/{id}/jobs/{job}/retry", scopeWrite, (*call).retryJob)
	s.rest("POST /projects/{id}/jobs/{job}/play", scopeWrite, (*call).playJob)
	s.handle("GET "+apiPrefix+"/projects/{id}/jobs/{job}/trace", s.getTrace)
	s.handle("POST "+apiPrefix+"/projects/{id}/pipeline", s.createPipeline)
	s.rest("GET /projects/{id}/pipelines/{pipeline}", scopeRead, (*call).getPipeline)
	s.rest("GET /projects/{id}/pipelines/{pipeline}/jobs", scopeRead, (*call).listPipelineJobs)
	s.rest("POST /projects/{id}/pipelines/{pipeline}/cancel", scopeWrite, (*call).cancelPipeline)

	s.rest("GET /projects/{id}/hooks", scopeRead, (*call).listHooks)
	s.rest("POST /projects/{id}/hooks", scopeWrite, (*call).createHook)
	s.rest("GET /projects/{id}/hooks/{hook}", scopeRead, (*call).getHook)
	s.rest("PUT /projects/{id}/hooks/{hook}", scopeWrite, (*call).updateHook)
	s.rest("DELETE /projects/{id}/hooks/{hook}", scopeWrite, (*call).deleteHook)
	s.rest("GET /projects/{id}/hooks/{hook}/events", scopeRead, (*call).listHookEvents)
	s.handle("POST "+apiPrefix+"/projects/{id}/hooks/{hook}/events/{event}/resend", s.resendHookEvent)
	s.handle("POST "+apiPrefix+"/projects/{id}/hooks/{hook}/test/{trigger}", s.testHook)

	s.handle("POST "+apiPrefix+"/runners/verify", s.verifyRunner)
	s.handle("DELETE "+apiPrefix+"/runners", s.deleteRunnerByToken)
	s.handle("DELETE "+apiPrefix+"/runners/managers", s.deleteRunnerSystem)
	s.handle("POST "+apiPrefix+"/runners/reset_authentication_token", s.resetOwnRunnerToken)
	s.handle("GET "+apiPrefix+"/runners/router/discovery", s.routerDiscovery)
	s.handle("POST "+apiPrefix+"/jobs/request", s.requestJob)
	s.handle("PUT "+apiPrefix+"/jobs/{job}", s.updateJob)
	s.handle("PATCH "+apiPrefix+"/jobs/{job}/trace", s.appendTrace)
	s.handle("POST "+apiPrefix+"/jobs/{job}/artifacts", s.uploadArtifact)
	s.handle("GET "+apiPrefix+"/jobs/{job}/artifacts", s.downloadArtifact)

	s.handle("GET /-/emulator/faults", s.listFaults)
	s.handle("POST /-/emulator/faults", s.addFault)
	s.handle("DELETE /-/emulator/faults", s.clearFaults)
	s.handle("DELETE /-/emulator/faults/{id}", s.removeFault)
	s.handle("GET /-/emulator/jobs", s.showJobs)
	s.handle("GET /-/emulator/requests", s.showRequests)

	s.handle(apiPrefix+"/", func(http.ResponseWriter, *http.Request) error {
		return &apiError{status: http.StatusNotFound, body: map[string]any{"error": "404 Not Found"}}
	})
	s.mux.HandleFunc("/", s.serveGit)
}

// handle registers an endpoint that takes mu itself, or not at all.
func (s *Server) handle(pattern string, serve func(http.ResponseWriter, *http.Request) error) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			writeError(w, err)
		}
	})
}

// rest registers an endpoint that runs from start to end with mu held. What it returns must be its
// own copy: it is encoded after mu was let go.
func (s *Server) rest(pattern string, need scopes, serve func(*call) (any, error)) {
	method, path, _ := cutPattern(pattern)
	s.handle(method+" "+apiPrefix+path, func(w http.ResponseWriter, r *http.Request) error {
		p, err := readParams(r)
		if err != nil {
			return err
		}
		c := &call{s: s, w: w, r: r, params: p, status: http.StatusOK}
		if method == http.MethodPost {
			c.status = http.StatusCreated
		}
		answer, err := c.run(need, serve)
		if err != nil {
			return err
		}
		writeJSON(w, c.status, answer)
		return nil
	})
}

func (c *call) run(need scopes, serve func(*call) (any, error)) (any, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	var err error
	if c.token, err = c.s.authenticate(c.r, need); err != nil {
		return nil, err
	}
	return serve(c)
}

func (c *call) noContent() (any, error) {
	c.status = http.StatusNoContent
	return nil, nil
}
