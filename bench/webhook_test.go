package bench

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// BenchmarkWebhookAck200PerSecond is how long GitLab waits for the answer to a webhook while 200 come each second and
// everything behind runs: queue, store, and the steps that ask the emulated GitLab for each job. It is an open loop: a
// slow answer does not hold the next delivery back, and its time counts from when it was due. Run it with -benchtime
// 4000x for 20 s; the promise is a p99 of 20 ms or less. BenchmarkAck of package intake has the intake alone.
func BenchmarkWebhookAck200PerSecond(b *testing.B) {
	p := newPlane(b, onSQLite)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: 10 * time.Second}
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
			resp, err := client.Do(delivery(b, p, fmt.Sprint("delivery-", b.N, "-", i), int64(i/4+1), statuses[i%4]))
			d := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, d)
			if err != nil {
				failed++
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode/100 != 2 {
				failed++
			}
		})
	}
	out.Wait()
	b.StopTimer()
	require.Zero(b, failed)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per-s")
	percentiles(b, took, "ack")
}

// delivery is a signed Job Hook of some 3 KiB, of a job that GitLab does not know any more.
func delivery(b *testing.B, p *plane, id string, jobID int64, status string) *http.Request {
	body := fmt.Sprintf(`{"object_kind":"build","build_id":%d,"build_status":%q,"project_id":%d,"runner":null,
"commit":{"message":%q},"project":{"path_with_namespace":"group/app"}}`, 1_000_000+jobID, status, p.project.ID, strings.Repeat("m", 3000))
	r, err := http.NewRequest(http.MethodPost, p.webhook, strings.NewReader(body))
	require.NoError(b, err)
	at := fmt.Sprint(time.Now().Unix())
	signature, err := gitlabtest.Sign(signing, id, at, []byte(body))
	require.NoError(b, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Gitlab-Event", "Job Hook")
	r.Header.Set("webhook-id", id)
	r.Header.Set("webhook-timestamp", at)
	r.Header.Set("webhook-signature", signature)
	return r
}
