package fake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
	"github.com/firerunner/firerunner/internal/driver/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newSpec(id string) firerunner.MicroVMSpec {
	return firerunner.MicroVMSpec{
		ID: id, Host: "here", Size: firerunner.Size{VCPUs: 1, MemoryMiB: 512}, Deadline: time.Now().Add(time.Hour),
		Start: firerunner.GuestStart{Token: "glrt-abc"},
	}
}

// obedient is the guest that the suite asks for.
func obedient(ctx context.Context, _ firerunner.MicroVMSpec, report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder) error {
	report(firerunner.GuestReport{Kind: firerunner.ReportHello})
	report(firerunner.GuestReport{Kind: firerunner.ReportStarted})
	select {
	case order := <-orders:
		report(firerunner.GuestReport{Kind: firerunner.ReportRunnerExited, Message: string(order)})
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestDriver(t *testing.T) {
	drivertest.Exercise(t, drivertest.Subject{
		New: func(*testing.T) firerunner.Driver {
			return fake.New(fake.Config{Guest: obedient, BootTime: 20 * time.Millisecond})
		},
		Spec: func(_ *testing.T, id string) firerunner.MicroVMSpec { return newSpec(id) },
		Leftovers: func(t *testing.T, d firerunner.Driver, id string) (left []string) {
			vms, err := d.List(t.Context())
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			for _, vm := range vms {
				if vm.ID == id {
					left = append(left, vm.ID)
				}
			}
			return left
		},
		Kill:     func(_ *testing.T, d firerunner.Driver, id string) { d.(*fake.Driver).Kill(id) },
		NoReopen: "the microVMs of the fake driver live in its process",
		Within:   10 * time.Second,
	})
}

// gitlab is the smallest GitLab: one job, after a number of refusals.
type gitlab struct {
	mu      sync.Mutex
	answers []int // status of each job request, the last again and again
	calls   []string
	log     string
	result  map[string]any
}

func (g *gitlab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	g.calls = append(g.calls, r.Method+" "+r.URL.Path)
	switch r.URL.Path {
	case "/api/v4/jobs/request":
		status := g.answers[0]
		if len(g.answers) > 1 {
			g.answers = g.answers[1:]
		}
		var request struct{ Token string }
		if json.Unmarshal(body, &request) != nil || request.Token != "glrt-abc" || r.Header.Get("RUNNER-TOKEN") != "glrt-abc" {
			status = http.StatusForbidden
		}
		w.WriteHeader(status)
		if status == http.StatusCreated {
			_, _ = io.WriteString(w, `{"id": 7, "token": "glcbt-7"}`)
		}
	case "/api/v4/jobs/7/trace":
		if r.Header.Get("Content-Range") != fmt.Sprintf("0-%d", len(body)-1) || r.Header.Get("JOB-TOKEN") != "glcbt-7" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		g.log += string(body)
		w.WriteHeader(http.StatusAccepted)
	case "/api/v4/jobs/7":
		_ = json.Unmarshal(body, &g.result)
	}
}

func follow(t *testing.T, d firerunner.Driver, id string) (reports []firerunner.GuestReport) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, d.Follow(ctx, id, 0, func(r firerunner.GuestReport) error {
		reports = append(reports, r)
		return nil
	}))
	return reports
}

// TestRunnerGuestKey: it hands out the job's token as a guest agent does, and only where it is asked to.
func TestRunnerGuestKey(t *testing.T) {
	own, err := firerunner.NewSealKey("glpat-of-a-test-only")
	require.NoError(t, err)
	for _, sealTo := range []string{"", own.Public(), "no key"} {
		server := httptest.NewServer(&gitlab{answers: []int{201}})
		d := fake.New(fake.Config{HTTP: server.Client(), Poll: 10 * time.Millisecond, JobTime: time.Millisecond})
		spec := newSpec("r1")
		spec.Start.GitLabURL, spec.Start.RunnerID, spec.Start.SealTo = server.URL, "r1", sealTo
		_, err := d.Create(t.Context(), spec)
		require.NoError(t, err)
		for _, r := range follow(t, d, "r1") {
			switch {
			case r.Kind != firerunner.ReportTookJob || sealTo != own.Public():
				require.Empty(t, r.JobKey)
			default:
				token, err := own.Open(r.JobKey, "r1", 7)
				require.NoError(t, err)
				require.Equal(t, "glcbt-7", token.Reveal())
			}
		}
		require.NoError(t, d.Close())
		server.Client().CloseIdleConnections()
		server.Close()
	}
}

func TestRunnerGuest(t *testing.T) {
	for name, c := range map[string]struct {
		answers []int
		token   firerunner.Secret
		wait    time.Duration
		order   firerunner.GuestOrder // once it took the job
		kinds   []firerunner.ReportKind
		state   any
		message string
	}{
		"OK": {
			answers: []int{201}, kinds: []firerunner.ReportKind{"hello", "started", "took_job", "job_done", "runner_exited", "exited"},
			state: "success",
		},
		"OKAfterErrors": {
			answers: []int{204, 500, 409, 201}, kinds: []firerunner.ReportKind{"hello", "started", "took_job", "job_done", "runner_exited", "exited"},
			state: "success",
		},
		"OKStopped": {
			answers: []int{201}, order: firerunner.OrderStop,
			kinds: []firerunner.ReportKind{"hello", "started", "took_job", "job_done", "runner_exited", "exited"}, state: "failed",
		},
		"ErrNoJob": {
			answers: []int{204}, wait: 30 * time.Millisecond,
			kinds: []firerunner.ReportKind{"hello", "started", "runner_exited", "exited"}, message: "no job",
		},
		"ErrToken": {
			answers: []int{201}, token: "glrt-other",
			kinds: []firerunner.ReportKind{"hello", "started", "runner_exited", "exited"}, message: "token",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gitlab{answers: c.answers}
			server := httptest.NewServer(g)
			defer server.Close()
			jobTime := time.Millisecond
			if c.order != "" {
				jobTime = time.Hour
			}
			d := fake.New(fake.Config{HTTP: server.Client(), Poll: 10 * time.Millisecond, JobTime: jobTime})
			defer func() { require.NoError(t, d.Close()) }()
			spec := newSpec("r1")
			spec.Start.GitLabURL, spec.Start.WaitTimeout = server.URL+"/", c.wait
			if c.token != "" {
				spec.Start.Token = c.token
			}
			_, err := d.Create(t.Context(), spec)
			require.NoError(t, err)
			if c.order != "" {
				stop := errors.New("took it")
				require.ErrorIs(t, d.Follow(t.Context(), "r1", 0, func(r firerunner.GuestReport) error {
					if r.Kind == firerunner.ReportTookJob {
						return stop
					}
					return nil
				}), stop)
				require.NoError(t, d.Order(t.Context(), "r1", firerunner.OrderFinish), "finish waits for the job")
				require.NoError(t, d.Order(t.Context(), "r1", c.order))
			}
			reports := follow(t, d, "r1")
			var kinds []firerunner.ReportKind
			for _, r := range reports {
				kinds = append(kinds, r.Kind)
				if r.Kind == firerunner.ReportTookJob || r.Kind == firerunner.ReportJobDone {
					require.EqualValues(t, 7, r.JobID)
				}
				if r.Kind == firerunner.ReportRunnerExited {
					require.Contains(t, r.Message, c.message)
				}
			}
			require.Equal(t, c.kinds, kinds)
			g.mu.Lock()
			defer g.mu.Unlock()
			require.Equal(t, c.state, g.result["state"])
			if c.state != nil {
				require.Contains(t, g.log, "fake microVM")
			}
			server.Client().CloseIdleConnections()
		})
	}
}

func TestFaults(t *testing.T) {
	broken := errors.New("broken")
	t.Run("ErrProbeAndCreate", func(t *testing.T) {
		d := fake.New(fake.Config{ProbeErr: broken, CreateErr: func(firerunner.MicroVMSpec) error { return broken }})
		require.ErrorIs(t, d.Probe(t.Context()), broken)
		_, err := d.Create(t.Context(), newSpec("r1"))
		require.ErrorIs(t, err, broken)
		vms, err := d.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, vms)
	})
	t.Run("NeverHello", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := fake.New(fake.Config{NeverHello: true, BootTime: time.Second})
			spec := newSpec("r1")
			_, err := d.Create(t.Context(), spec)
			require.NoError(t, err)
			begin := time.Now()
			reports := followAll(t, d)
			require.Len(t, reports, 1)
			require.Equal(t, "ended at its deadline", reports[0].Message)
			require.Equal(t, time.Hour, time.Since(begin))
			require.NoError(t, d.Close())
		})
	})
	t.Run("DieAfter", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := fake.New(fake.Config{Guest: obedient, DieAfter: time.Minute, DestroyTime: time.Second})
			_, err := d.Create(t.Context(), newSpec("r1"))
			require.NoError(t, err)
			begin := time.Now()
			reports := followAll(t, d)
			require.Contains(t, reports[len(reports)-1].Message, "died")
			require.Equal(t, time.Minute, time.Since(begin))
			require.NoError(t, d.Destroy(t.Context(), "r1"))
			require.Equal(t, time.Minute+time.Second, time.Since(begin))
			require.NoError(t, d.Close())
		})
	})
	t.Run("GuestError", func(t *testing.T) {
		d := fake.New(fake.Config{Guest: func(context.Context, firerunner.MicroVMSpec, func(firerunner.GuestReport), <-chan firerunner.GuestOrder) error {
			return broken
		}})
		_, err := d.Create(t.Context(), newSpec("r1"))
		require.NoError(t, err)
		reports := follow(t, d, "r1")
		require.Equal(t, 1, reports[0].ExitCode)
		require.Equal(t, "broken", reports[0].Message)
		console, err := d.Console(t.Context(), "r1")
		require.NoError(t, err)
		require.NoError(t, console.Close())
		require.NoError(t, d.Close())
	})
}

// followAll follows r1 in a bubble, where time is not real.
func followAll(t *testing.T, d firerunner.Driver) (reports []firerunner.GuestReport) {
	t.Helper()
	require.NoError(t, d.Follow(t.Context(), "r1", 0, func(r firerunner.GuestReport) error {
		reports = append(reports, r)
		return nil
	}))
	return reports
}

// TestRunnerAgain: a guest tells its log and its result again for as long as GitLab does not understand, and once it is
// refused no more.
func TestRunnerAgain(t *testing.T) {
	for _, refusal := range []int{http.StatusBadGateway, http.StatusForbidden} {
		g := &gitlab{answers: []int{201}}
		troubles := 2 // of each call for the job
		left := map[string]int{"/api/v4/jobs/7/trace": troubles, "/api/v4/jobs/7": troubles}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if left[r.URL.Path] > 0 {
				left[r.URL.Path]--
				w.WriteHeader(refusal)
				return
			}
			g.ServeHTTP(w, r)
		}))
		runner := fake.Runner{Client: server.Client(), Poll: 10 * time.Millisecond, Again: time.Millisecond, Work: func(task fake.Task) fake.Work {
			require.Equal(t, fake.Task{VM: "r1", Job: 7}, task)
			return fake.Work{Failure: "script_failure", Log: "it went wrong\n"}
		}}
		d := fake.New(fake.Config{Guest: runner.Guest()})
		spec := newSpec("r1")
		spec.Start.GitLabURL = server.URL
		_, err := d.Create(t.Context(), spec)
		require.NoError(t, err)
		reports := follow(t, d, "r1")
		if refusal == http.StatusForbidden {
			require.Equal(t, troubles-1, left["/api/v4/jobs/7/trace"], "told once")
			require.Nil(t, g.result)
		} else {
			require.Equal(t, "it went wrong\n", g.log)
			require.Equal(t, "failed", g.result["state"])
			require.Equal(t, "script_failure", g.result["failure_reason"])
			require.Equal(t, "script_failure", reports[3].Failure)
		}
		require.NoError(t, d.Close())
		server.Client().CloseIdleConnections()
		server.Close()
	}
}
