package intake_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/intake"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

const signing = "whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="

// real is an intake on the real store, with the real queue's tables.
type real struct {
	store    *sqlite.Store
	enqueuer *queue.Enqueuer
	intake   *intake.Intake
}

func open(t testing.TB, path string) real {
	t.Helper()
	enqueuer, err := queue.NewEnqueuer()
	require.NoError(t, err)
	quiet := slog.New(slog.DiscardHandler)
	store, err := sqlite.Open(t.Context(), sqlite.Config{
		Path: path, Enqueue: enqueuer.Enqueue, Enqueued: enqueuer.Wake, Logger: quiet,
		Migrate: []func(context.Context, *sql.DB) error{queue.Migrate},
	})
	require.NoError(t, err)
	in, err := intake.New(intake.Config{Store: store, SigningTokens: []firerunner.Secret{signing}, Logger: quiet})
	require.NoError(t, err)
	return real{store, enqueuer, in}
}

// delivery is a signed Job Hook of some 3 KiB.
func delivery(url, id string, jobID int64, status string) *http.Request {
	body := fmt.Sprintf(`{"object_kind":"build","build_id":%d,"build_status":%q,"project_id":%d,"runner":null,
"commit":{"message":%q},"project":{"path_with_namespace":"group/app"}}`, jobID, status, jobID%50+1, strings.Repeat("m", 3000))
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	key, err := base64.StdEncoding.DecodeString(signing[6:])
	if err != nil {
		panic(err)
	}
	at := fmt.Sprint(time.Now().Unix())
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Gitlab-Event", "Job Hook")
	r.Header.Set("webhook-id", id)
	r.Header.Set("webhook-timestamp", at)
	r.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return r
}

// What was answered with 2xx is there after a crash: the step, the project, and that it was taken.
func TestDelivery_AfterCrash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "firerunner.db")
	before := open(t, path)
	w := httptest.NewRecorder()
	before.intake.ServeHTTP(w, delivery("/webhook", "one", 42, "pending"))
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Body.String(), `"queued"`)
	require.NoError(t, before.store.Close())

	after := open(t, path)
	defer func() { require.NoError(t, after.store.Close()) }()
	projects, err := after.store.Projects(t.Context(), time.Time{})
	require.NoError(t, err)
	require.Len(t, projects, 1)
	require.Equal(t, "group/app", projects[0].Path)

	w = httptest.NewRecorder()
	after.intake.ServeHTTP(w, delivery("/webhook", "one", 42, "pending"))
	require.Contains(t, w.Body.String(), `"duplicate"`)

	ran := make(chan firerunner.Step, 10)
	steps := map[firerunner.StepKind]firerunner.StepFunc{}
	for _, kind := range queue.Kinds() {
		steps[kind] = func(_ context.Context, s firerunner.Step) error { ran <- s; return nil }
	}
	q, err := queue.New(queue.Config{DB: after.store.DB(), Enqueuer: after.enqueuer, Sole: true, Steps: steps, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, q.Start(t.Context()))
	defer func() { require.NoError(t, q.Stop(context.Background())) }()
	select {
	case s := <-ran:
		require.Equal(t, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: 43, JobID: 42}, s)
	case <-time.After(20 * time.Second):
		t.Fatal("the step did not run")
	}
}

// BenchmarkAck is the whole path of a webhook: HTTP over loopback, signature, one durable commit, answer, 200 a second
// in an open loop (a slow answer does not hold the next delivery back, as with GitLab), while the queue runs the steps
// that follow, each of which writes to the same store. Run it with
//
//	go test -run '^$' -bench Ack -benchtime 4000x ./internal/intake
//
// and it prints the percentiles of the time from the delivery being due to its answer. The promise is p99 <= 20 ms.
func BenchmarkAck(b *testing.B) {
	house := open(b, filepath.Join(b.TempDir(), "firerunner.db"))
	steps := map[firerunner.StepKind]firerunner.StepFunc{}
	for _, kind := range queue.Kinds() {
		steps[kind] = func(ctx context.Context, s firerunner.Step) error {
			return house.store.Update(ctx, func(tx firerunner.Tx) error {
				_, err := tx.SaveJob(ctx, firerunner.Job{
					ID: s.JobID, ProjectID: s.ProjectID, Ours: true, Status: firerunner.JobPending, Tags: "a", SeenAt: time.Now(),
				})
				return err
			})
		}
	}
	q, err := queue.New(queue.Config{DB: house.store.DB(), Enqueuer: house.enqueuer, Sole: true, Steps: steps, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	require.NoError(b, q.Start(b.Context()))
	defer func() {
		require.NoError(b, q.Stop(context.Background()))
		require.NoError(b, house.store.Close())
	}()

	b.Run("intake", func(b *testing.B) { openLoop(b, house.intake) })
	b.Run("nothing", func(b *testing.B) { // what the machine itself does to a server that does nothing
		openLoop(b, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	})
}

// openLoop delivers 200 webhooks a second, whether or not the ones before were answered.
func openLoop(b *testing.B, to http.Handler) {
	server := httptest.NewServer(to)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: 10 * time.Second}
	defer server.Close()
	defer client.CloseIdleConnections()
	const perSecond = 200
	statuses := []string{"created", "pending", "running", "success"}
	var mu sync.Mutex
	var took []time.Duration
	failed := 0
	var out sync.WaitGroup
	b.ResetTimer()
	began := time.Now()
	for i := range b.N {
		due := began.Add(time.Duration(i) * time.Second / perSecond)
		time.Sleep(time.Until(due))
		out.Go(func() {
			resp, err := client.Do(delivery(server.URL, fmt.Sprint("delivery-", b.N, "-", i), int64(i/4+1), statuses[i%4]))
			d := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, d)
			if err != nil {
				failed++
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				failed++
			}
		})
	}
	out.Wait()
	b.StopTimer()
	slices.Sort(took)
	at := func(perMille int) float64 {
		return float64(took[min(len(took)-1, len(took)*perMille/1000)].Microseconds()) / 1000
	}
	b.ReportMetric(at(500), "p50-ms")
	b.ReportMetric(at(950), "p95-ms")
	b.ReportMetric(at(990), "p99-ms")
	b.ReportMetric(at(999), "p99.9-ms")
	b.ReportMetric(float64(failed), "failed")
	b.ReportMetric(float64(len(took))/time.Since(began).Seconds(), "per-s")
}
