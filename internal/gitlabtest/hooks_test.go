package gitlabtest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

const signingToken = "whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="

// receiver is what a webhook points at.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []received
	status int
}

type received struct {
	header http.Header
	body   []byte
	event  *gitlab.JobEvent
}

func receive(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{status: http.StatusOK}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		body, _ := io.ReadAll(in.Body)
		event, err := gitlab.ParseWebhook(gitlab.WebhookEventType(in), body)
		r.mu.Lock()
		defer r.mu.Unlock()
		one := received{header: in.Header, body: body}
		if err == nil {
			one.event, _ = event.(*gitlab.JobEvent)
		}
		r.got = append(r.got, one)
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *receiver) statuses() []string {
	var out []string
	for _, one := range r.all() {
		out = append(out, one.event.BuildStatus)
	}
	return out
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func TestSignVector(t *testing.T) {
	t.Parallel()
	got, err := gitlabtest.Sign(signingToken, "f5e5f430-f57b-4e6e-9fac-d9128cd7232f", "1744578123", []byte(`{"object_kind":"build"}`))
	require.NoError(t, err)
	require.Equal(t, "v1,Wq9CVJFg0OkKkw0qgKXOd6pkG5SLVPm8tHFqhmzcHo0=", got)
	_, err = gitlabtest.Sign("whsec_AAAA", "a", "1", nil)
	require.Error(t, err)
}

func TestHookPayloadOK(t *testing.T) {
	t.Parallel()
	now := newClock()
	f := start(t, func(c *gitlabtest.Config) { c.Now = now.Now })
	in := receive(t)
	_, err := f.AddHook(f.project.ID, gitlabtest.Hook{URL: in.URL, Token: "plain", SigningToken: signingToken})
	require.NoError(t, err)
	job := f.push("one:\n  tags: [a]\n  script: x\n")[0]
	r := f.runner("a", "b")
	now.Add(2 * time.Second)
	j := f.take(r)
	now.Add(3 * time.Second)
	f.do("PUT", "/api/v4/jobs/"+itoa(j.ID), object{"token": j.Token, "state": "failed", "failure_reason": "script_failure", "exit_code": 1})
	require.NoError(t, f.WaitHooks(f.ctx))
	require.Equal(t, []string{"created", "pending", "running", "failed"}, in.statuses())

	got := in.all()
	for _, one := range got {
		require.Equal(t, "Job Hook", one.header.Get("X-Gitlab-Event"))
		require.Equal(t, "plain", one.header.Get("X-Gitlab-Token"))
		require.Equal(t, f.URL(), one.header.Get("X-Gitlab-Instance"))
		require.Equal(t, "GitLab/19.4.0-ee", one.header.Get("User-Agent"))
		require.NotEmpty(t, one.header.Get("X-Gitlab-Webhook-UUID"))
		require.Equal(t, one.header.Get("Idempotency-Key"), one.header.Get("webhook-id"))
		want, err := gitlabtest.Sign(signingToken, one.header.Get("webhook-id"), one.header.Get("webhook-timestamp"), one.body)
		require.NoError(t, err)
		require.Equal(t, want, one.header.Get("webhook-signature"))
	}
	pending := got[1].event
	require.Equal(t, job.ID, pending.BuildID)
	require.Zero(t, pending.Runner.ID)
	require.Equal(t, job.PipelineID, pending.Commit.ID)
	require.NotContains(t, string(got[1].body), `"tags"`)
	require.Contains(t, string(got[1].body), `"runner":null`)
	require.Contains(t, string(got[1].body), `"build_started_at":null`)
	require.Contains(t, string(got[1].body), `"build_created_at":"2026-11-23 08:25:24 UTC","build_started_at":null,"build_finished_at":null,"build_created_at_iso":"2026-11-23T08:25:24Z"`)
	require.Contains(t, string(got[1].body), `"build_failure_reason":"unknown_failure"`)
	running := got[2].event
	require.Equal(t, r.ID, running.Runner.ID)
	require.Equal(t, []string{"a", "b"}, running.Runner.Tags)
	require.InDelta(t, 2, running.BuildQueuedDuration, 0.01)
	require.Equal(t, "script_failure", got[3].event.BuildFailureReason)
	require.InDelta(t, 3, got[3].event.BuildDuration, 0.01)
	require.Equal(t, "group / app", got[3].event.ProjectName)
}

func TestHookFaults(t *testing.T) {
	t.Parallel()
	f := start(t)
	in := receive(t)
	h, err := f.AddHook(f.project.ID, gitlabtest.Hook{URL: in.URL})
	require.NoError(t, err)
	fault := func(x gitlabtest.Fault) {
		x.Hook = true
		_, err := f.AddFault(x)
		require.NoError(t, err)
	}
	fault(gitlabtest.Fault{Action: gitlabtest.FaultDrop, BuildStatus: gitlabtest.StatusCreated})
	fault(gitlabtest.Fault{Action: gitlabtest.FaultReorder, BuildStatus: gitlabtest.StatusPending, Delay: time.Minute, Count: 1})
	fault(gitlabtest.Fault{Action: gitlabtest.FaultDouble, BuildStatus: gitlabtest.StatusSuccess})
	f.push(oneJob)
	j := f.take(f.runner())
	f.do("PUT", "/api/v4/jobs/"+itoa(j.ID), object{"token": j.Token, "state": "success"})
	require.NoError(t, f.WaitHooks(f.ctx))
	require.Equal(t, []string{"running", "pending", "success", "success"}, in.statuses())
	got := in.all()
	require.Equal(t, got[2].header.Get("webhook-id"), got[3].header.Get("webhook-id"))
	require.NotEqual(t, got[2].header.Get("X-Gitlab-Webhook-UUID"), got[3].header.Get("X-Gitlab-Webhook-UUID"))
	history := f.Deliveries(h.ID)
	require.Len(t, history, 5)
	require.True(t, history[0].Dropped)

	f.ClearFaults()
	fault(gitlabtest.Fault{Action: gitlabtest.FaultDelay, BuildStatus: gitlabtest.StatusCreated, Delay: 200 * time.Millisecond})
	f.push(oneJob)
	require.NoError(t, f.WaitHooks(f.ctx))
	require.Equal(t, []string{"pending", "created"}, in.statuses()[4:])
	fault(gitlabtest.Fault{Action: gitlabtest.FaultReorder, BuildStatus: gitlabtest.StatusCanceled, Delay: 20 * time.Millisecond})
	require.NoError(t, f.CancelJob(f.Jobs(gitlabtest.JobFilter{Statuses: []gitlabtest.Status{gitlabtest.StatusPending}})[0].ID))
	require.NoError(t, f.WaitHooks(f.ctx), "held back, and nothing follows it")
	require.Equal(t, "canceled", in.statuses()[6])
}

func TestHookHistoryAndResend(t *testing.T) {
	t.Parallel()
	f := start(t)
	in := receive(t)
	in.answer(http.StatusInternalServerError)
	h, err := f.AddHook(f.project.ID, gitlabtest.Hook{URL: in.URL, Token: "secret-token"})
	require.NoError(t, err)
	f.push(oneJob)
	require.NoError(t, f.WaitHooks(f.ctx))
	require.Len(t, in.all(), 2, "no second try by itself")
	require.Equal(t, 2, f.Hooks(f.project.ID)[0].FailuresInARow)

	path := "/projects/" + itoa(f.project.ID) + "/hooks/" + itoa(h.ID)
	a := f.api("GET", path+"/events", nil)
	require.NotContains(t, string(a.body), "secret-token")
	var events []struct {
		ID     int64
		Status string `json:"response_status"`
		Data   object `json:"request_data"`
	}
	a.decode(t, &events)
	require.Len(t, events, 2)
	require.Equal(t, "500", events[0].Status)
	require.Equal(t, "pending", events[0].Data["build_status"])

	in.answer(http.StatusOK)
	a = f.api("POST", path+"/events/"+itoa(events[0].ID)+"/resend", nil)
	require.Equal(t, http.StatusCreated, a.status, "%s", a.body)
	got := in.all()
	require.Equal(t, got[1].header.Get("webhook-id"), got[2].header.Get("webhook-id"))
	require.Equal(t, got[1].body, got[2].body)
	require.Zero(t, f.Hooks(f.project.ID)[0].FailuresInARow)
	require.True(t, f.Deliveries(h.ID)[2].Resent)
	for range 4 {
		require.Equal(t, http.StatusCreated, f.api("POST", path+"/test/job_events", nil).status)
	}
	require.Equal(t, http.StatusTooManyRequests, f.api("POST", path+"/test/job_events", nil).status)
}

func TestHookAutoDisable(t *testing.T) {
	t.Parallel()
	now := newClock()
	f := start(t, func(c *gitlabtest.Config) { c.AutoDisableHooks, c.Now = true, now.Now })
	in := receive(t)
	in.answer(http.StatusBadRequest)
	h, err := f.AddHook(f.project.ID, gitlabtest.Hook{URL: in.URL})
	require.NoError(t, err)
	for range 3 {
		f.push(oneJob)
	}
	require.NoError(t, f.WaitHooks(f.ctx))
	require.Len(t, in.all(), 4, "the fifth and sixth met a resting hook")
	var view object
	f.api("GET", "/projects/"+itoa(f.project.ID)+"/hooks/"+itoa(h.ID), nil).decode(t, &view)
	require.Equal(t, "temporarily_disabled", view["alert_status"])
	require.Equal(t, "2026-11-23T08:26:24.000Z", view["disabled_until"])
	in.answer(http.StatusOK)
	now.Add(time.Minute)
	f.push(oneJob)
	require.NoError(t, f.WaitHooks(f.ctx))
	require.Len(t, in.all(), 6)
	require.Zero(t, f.Hooks(f.project.ID)[0].FailuresInARow)
}

func TestHookTimeout(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.HookTimeout = 50 * time.Millisecond })
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(slow.Close)
	h, err := f.AddHook(f.project.ID, gitlabtest.Hook{URL: slow.URL})
	require.NoError(t, err)
	f.push(oneJob)
	d, err := f.WaitDelivery(f.ctx, h.ID, func(d gitlabtest.HookDelivery) bool { return d.BuildStatus == gitlabtest.StatusPending })
	require.NoError(t, err)
	require.Zero(t, d.Status)
	require.Contains(t, d.Error, "deadline")
}

// A deleted runner is gone from the final hook, too.
func TestHookAfterRunnerDeleted(t *testing.T) {
	t.Parallel()
	f := start(t)
	in := receive(t)
	_, err := f.AddHook(f.project.ID, gitlabtest.Hook{URL: in.URL})
	require.NoError(t, err)
	f.push(oneJob)
	r := f.runner()
	j := f.take(r)
	f.DeleteRunner(r.ID)
	f.do("PUT", "/api/v4/jobs/"+itoa(j.ID), object{"token": j.Token, "state": "success"})
	require.NoError(t, f.WaitHooks(f.ctx))
	got := in.all()
	require.Equal(t, r.ID, got[2].event.Runner.ID)
	require.Zero(t, got[3].event.Runner.ID)
	done, _ := f.Job(j.ID)
	require.Equal(t, r.ID, done.RunnerID)
}
