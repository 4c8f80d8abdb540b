package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlab"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// site is a GitLab with its users and gitlab-runners.
type site interface {
	firerunner.GitLab
	firerunner.JobFailer
	token(id int64) firerunner.Secret // of a job that was taken
	push(tags string) (id int64)
	take(token string, graceful bool) (id int64, known bool)
	finish(id int64, state string) (taken bool)
	cancel(id int64)
}

// The model answers what the emulated GitLab answers, which is asked over HTTP with the real client.
func TestModelOfGitLab(t *testing.T) {
	t.Parallel()
	server, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	project, err := server.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	client, err := gitlab.New(gitlab.Config{
		URL: server.URL(), Token: gitlab.StaticToken(firerunner.Secret(server.CreateToken("api", "create_runner"))),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	emulated := ask(t, &emulatedSite{Client: client, t: t, server: server, project: project.ID, http: &http.Client{Transport: transport}, tokens: map[int64]string{}}, project.ID)
	model := ask(t, modelSite{NewGitLab(time.Now)}, 1)
	require.Equal(t, emulated, model)
	require.Greater(t, len(model), 30)
}

// ask goes through what control asks GitLab for, and returns the answers in words that do not depend on ids.
func ask(t *testing.T, s site, project int64) (answers []string) {
	ctx := t.Context()
	words := map[int64]string{0: "nobody"}
	say := func(what string, args ...any) { answers = append(answers, fmt.Sprintf(what, args...)) }
	job := func(j firerunner.Job) string {
		return fmt.Sprintf("%s %s %s of %s", words[j.ID], j.Status, j.Tags, words[j.GitLabID])
	}
	jobs := func(what string, all []firerunner.Job, err error) {
		text := ""
		for _, j := range all {
			text += "; " + job(j)
		}
		say("%s: %q%s", what, firerunner.CodeOf(err), text)
	}
	pending := func() { all, err := s.PendingJobs(ctx, project); jobs("pending", all, err) }
	read := func(id int64) { j, err := s.Job(ctx, project, id); say("job: %q %s", firerunner.CodeOf(err), job(j)) }
	running := func(id int64) { all, err := s.RunnerJobs(ctx, id); jobs("of the runner", all, err) }
	take := func(token firerunner.Secret, graceful bool) int64 {
		id, known := s.take(token.Reveal(), graceful)
		say("takes %s, known %t", words[id], known)
		return id
	}
	runner := func(name string) firerunner.Credential {
		cred, err := s.CreateRunner(ctx, firerunner.CredentialRequest{ProjectID: project, Tags: tagSmall, Description: "firerunner x " + name, MaxTimeout: time.Hour})
		words[cred.ID] = name
		say("create: %q %t %t", firerunner.CodeOf(err), cred.ID > 0, cred.Token != "")
		return cred
	}
	find := func(prefix string) {
		all, err := s.FindRunners(ctx, project, prefix)
		text := ""
		for _, r := range all {
			text += fmt.Sprintf("; %s %q paused %t", words[r.ID], r.Description, r.Paused)
		}
		say("find %s: %q%s", prefix, firerunner.CodeOf(err), text)
	}

	small, medium := s.push(tagSmall), s.push(tagMedium)
	words[small], words[medium] = "small", "medium"
	pending()
	first := runner("first")
	find("firerunner x ")
	find("firerunner y ")
	take(first.Token, false)
	take(first.Token, false)
	running(first.ID)
	read(small)
	read(medium)
	pending()
	say("pause: %q", firerunner.CodeOf(s.PauseRunner(ctx, first.ID)))
	find("firerunner x f")
	next := s.push(tagSmall)
	words[next] = "next"
	take(first.Token, false)
	for range 2 {
		say("delete: %q", firerunner.CodeOf(s.DeleteRunner(ctx, first.ID)))
	}
	take(first.Token, false)
	running(first.ID)
	say("pause: %q", firerunner.CodeOf(s.PauseRunner(ctx, first.ID)))
	read(small)
	say("finish %t", s.finish(small, "success"))
	say("finish %t", s.finish(small, "failed"))
	read(small)
	s.cancel(medium)
	read(medium)
	pending()

	second := runner("second")
	take(second.Token, true)
	s.cancel(next)
	read(next)
	running(second.ID)
	say("finish %t", s.finish(next, "failed"))
	read(next)
	rude := s.push(tagSmall)
	words[rude] = "rude"
	third := runner("third")
	take(third.Token, false)
	s.cancel(rude)
	read(rude)
	say("finish %t", s.finish(rude, "success"))
	read(rude)
	broken := s.push(tagSmall)
	words[broken] = "broken"
	fail := func(id int64, token firerunner.Secret) {
		told, err := s.FailJob(ctx, id, token, "its microVM died")
		say("fail %s: told %t %q", words[id], told, firerunner.CodeOf(err))
	}
	fail(broken, "glcbt-none")
	fourth := runner("fourth")
	take(fourth.Token, false)
	fail(broken, s.token(rude))
	read(broken)
	for range 2 {
		fail(broken, s.token(broken))
		read(broken)
	}
	seen, _ := s.Job(ctx, project, broken)
	say("because of %s", seen.Failure)
	fail(1<<40, s.token(broken))
	read(1 << 40)
	_, err := s.Job(ctx, project+1000, small)
	say("elsewhere: %q", firerunner.CodeOf(err))
	_, err = s.CreateRunner(ctx, firerunner.CredentialRequest{ProjectID: project, Description: "no tags"})
	say("without tags: %q", firerunner.CodeOf(err))
	return answers
}

type modelSite struct{ *GitLab }

func (m modelSite) push(tags string) int64 {
	return m.Push(1, firerunner.NewTagSet(tags), time.Hour).ID
}

func (m modelSite) token(id int64) firerunner.Secret { return m.jobs[id].Token() }

func (m modelSite) take(token string, graceful bool) (int64, bool) {
	j, known := m.Request(token, graceful)
	if j == nil {
		return 0, known
	}
	return j.ID, known
}

func (m modelSite) finish(id int64, state string) bool {
	return m.Finish(id, firerunner.JobStatus(state), "script_failure")
}
func (m modelSite) cancel(id int64) { m.Cancel(id) }

type emulatedSite struct {
	*gitlab.Client
	t       *testing.T
	server  *gitlabtest.Server
	project int64
	http    *http.Client
	tokens  map[int64]string // of jobs
}

func (e *emulatedSite) push(tags string) int64 {
	p, err := e.server.Push(e.project, map[string]string{".gitlab-ci.yml": fmt.Sprintf("job:\n  tags: [%s]\n  script: [\"true\"]\n", tags)})
	require.NoError(e.t, err)
	return p.JobIDs[0]
}

func (e *emulatedSite) token(id int64) firerunner.Secret { return firerunner.Secret(e.tokens[id]) }

func (e *emulatedSite) call(method, path string, body map[string]any) (status int, answer map[string]any) {
	text, err := json.Marshal(body)
	require.NoError(e.t, err)
	req, err := http.NewRequestWithContext(context.Background(), method, e.server.URL()+"/api/v4"+path, bytes.NewReader(text))
	require.NoError(e.t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := e.http.Do(req)
	require.NoError(e.t, err)
	defer res.Body.Close()
	_ = json.NewDecoder(res.Body).Decode(&answer) // some answers have no body, or only a number
	return res.StatusCode, answer
}

func (e *emulatedSite) take(token string, graceful bool) (int64, bool) {
	status, answer := e.call(http.MethodPost, "/jobs/request", map[string]any{
		"token": token, "info": map[string]any{"features": map[string]any{"cancel_gracefully": graceful}},
	})
	if status != http.StatusCreated {
		return 0, status == http.StatusNoContent
	}
	id := int64(answer["id"].(float64))
	e.tokens[id] = answer["token"].(string)
	return id, true
}

func (e *emulatedSite) finish(id int64, state string) bool {
	status, _ := e.call(http.MethodPut, fmt.Sprintf("/jobs/%d", id), map[string]any{"token": e.tokens[id], "state": state})
	return status == http.StatusOK
}

func (e *emulatedSite) cancel(id int64) { require.NoError(e.t, e.server.CancelJob(id)) }
