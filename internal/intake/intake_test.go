package intake

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secretToken  = "a-plain-secret-0123456789"
	signingToken = "whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="
	otherSigning = "whsec_b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGVyb3Q="
)

// memory is a store that holds what intake writes, and can be made to fail.
type memory struct {
	firerunner.Store // nil: what intake must not call panics
	mu               sync.Mutex
	fail             error
	taken            map[string]bool
	projects         map[int64]firerunner.Project
	steps            []firerunner.Step
	jobs             map[int64]firerunner.Job
	runners          map[int64]firerunner.Runner // by their id in GitLab
	updates          int
}

func newMemory() *memory {
	return &memory{
		taken: map[string]bool{}, projects: map[int64]firerunner.Project{},
		jobs: map[int64]firerunner.Job{}, runners: map[int64]firerunner.Runner{},
	}
}

type memoryTx struct {
	firerunner.Tx
	m *memory
}

func (m *memory) Update(ctx context.Context, do func(firerunner.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.updates++
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, limited := ctx.Deadline(); !limited {
		return fmt.Errorf("an update without a deadline")
	}
	if m.fail != nil {
		return m.fail
	}
	return do(memoryTx{m: m})
}

func (tx memoryTx) TakeDelivery(_ context.Context, key string, _ time.Time) (bool, error) {
	fresh := !tx.m.taken[key]
	tx.m.taken[key] = true
	return fresh, nil
}

func (tx memoryTx) SaveProject(_ context.Context, p firerunner.Project) error {
	tx.m.projects[p.ID] = p
	return nil
}

func (tx memoryTx) Job(_ context.Context, id int64) (firerunner.Job, error) {
	j, ok := tx.m.jobs[id]
	if !ok {
		return j, firerunner.Errorf(firerunner.NotFound, "no job %d", id)
	}
	return j, nil
}

func (tx memoryTx) Runners(_ context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	if r, ok := tx.m.runners[q.GitLabID]; ok && q.GitLabID != 0 {
		return []firerunner.Runner{r}, nil
	}
	return nil, nil
}

func (tx memoryTx) Enqueue(_ context.Context, s firerunner.Step) error {
	tx.m.steps = append(tx.m.steps, s)
	return nil
}

// house is an intake with what it writes to and says.
type house struct {
	*Intake
	store   *memory
	log     *bytes.Buffer
	mu      sync.Mutex
	results []Result
	now     time.Time
}

func newHouse(t testing.TB, change func(*Config)) *house {
	t.Helper()
	h := &house{store: newMemory(), log: &bytes.Buffer{}, now: time.Unix(1744578123, 0)}
	cfg := Config{
		Store: h.store, Tokens: []firerunner.Secret{secretToken},
		Logger: slog.New(slog.NewTextHandler(&locked{w: h.log}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now:    func() time.Time { h.mu.Lock(); defer h.mu.Unlock(); return h.now },
		Observe: func(r Result, took time.Duration) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.results = append(h.results, r)
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	h.Intake, err = New(cfg)
	require.NoError(t, err)
	return h
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// deliver sends one delivery and returns the answer and the result in it.
func (h *house) deliver(r *http.Request) (*httptest.ResponseRecorder, Result) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var answer struct {
		Result Result `json:"result"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		panic("the answer is not JSON: " + w.Body.String())
	}
	return w, answer.Result
}

// hookBody is a Job Hook as GitLab sends it, shortened to what could matter.
func hookBody(jobID int64, status string, runner string) string {
	return fmt.Sprintf(`{"object_kind":"build","ref":"main","tag":false,"sha":"2293ada6b400935a1378653304eaf6221e0fdb8f","retries_count":0,
"build_id":%d,"build_name":"test","build_stage":"test","build_status":%q,"build_created_at":"2021-02-23 02:41:37 UTC","build_started_at":null,
"build_duration":null,"build_queued_duration":1095.588715,"build_allow_failure":false,"build_failure_reason":"unknown_failure",
"pipeline_id":2366,"runner":%s,"project_id":380,"project_name":"Group / App","user":{"id":3,"name":"U","email":"[REDACTED]"},
"commit":{"id":2366,"sha":"2293ada6","message":"test\n","status":"created"},
"project":{"id":380,"name":"App","path_with_namespace":"group/app","default_branch":"main"},"environment":null}`, jobID, status, runner)
}

// post is a delivery with the plain token.
func post(body string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/webhook", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Gitlab-Event", "Job Hook")
	r.Header.Set("X-Gitlab-Token", secretToken)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
		}
	}
	return r
}

func sign(token, id string, at time.Time, body string) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(token, "whsec_"))
	if err != nil {
		panic(err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.%s", id, at.Unix(), body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// signed is a delivery signed at a time.
func signed(token, id string, at time.Time, body string) *http.Request {
	return post(body, "X-Gitlab-Token", "", "webhook-id", id, "webhook-timestamp", fmt.Sprint(at.Unix()),
		"webhook-signature", sign(token, id, at, body))
}

func TestNew_ErrConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"nobody is asked":   {},
		"empty token":       {Tokens: []firerunner.Secret{""}},
		"signing prefix":    {SigningTokens: []firerunner.Secret{"dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="}},
		"signing base64":    {SigningTokens: []firerunner.Secret{"whsec_hunter2!"}},
		"signing too short": {SigningTokens: []firerunner.Secret{"whsec_aHVudGVyMg=="}},
	} {
		cfg.Store = newMemory()
		_, err := New(cfg)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), name)
		require.NotContains(t, err.Error(), "hunter2")
	}
	_, err := New(Config{})
	require.Error(t, err)
	_, err = New(Config{Store: newMemory(), AllowUnauthenticated: true})
	require.NoError(t, err)
}

func TestDelivery_Statuses(t *testing.T) {
	t.Parallel()
	const ours, theirs, refused, swapped, unknown = 1, 2, 3, 4, 5
	for _, test := range []struct {
		job    int64
		status string
		runner string
		want   Result
	}{
		{unknown, "created", `null`, Noted},
		{unknown, "pending", `null`, Queued},
		{ours, "pending", `null`, Queued},
		{theirs, "pending", `null`, Queued},
		{ours, "running", `{"id":77}`, Queued},
		{ours, "success", `{"id":77}`, Queued},
		{ours, "failed", `null`, Queued},
		{ours, "canceling", `null`, Queued},
		{ours, "canceled", `null`, Queued},
		{ours, "skipped", `null`, Queued},
		{ours, "manual", `null`, Noted},
		{ours, "waiting_for_resource", `null`, Noted},
		{refused, "canceled", `null`, Queued},
		{swapped, "running", `null`, Queued}, // a runner of ours has it
		{theirs, "running", `{"id":77}`, Noted},
		{theirs, "success", `{"id":77}`, Noted},
		{theirs, "running", `{"id":5000,"tags":["x"]}`, Queued}, // ... and is known by its id in GitLab
		{unknown, "running", `{"id":77}`, Noted},
		{unknown, "running", `{"id":5000}`, Queued},
		{unknown, "failed", `{"id":5000}`, Queued},
		{unknown, "failed", `{"id":"5000"}`, Noted},
		{unknown, "failed", `[5000]`, Noted},
		{unknown, "a_status_to_come", `{"id":5000}`, Noted},
	} {
		t.Run(fmt.Sprintf("%d %s %s", test.job, test.status, test.runner), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, nil)
			h.store.jobs[ours] = firerunner.Job{ID: ours, Ours: true}
			h.store.jobs[theirs] = firerunner.Job{ID: theirs}
			h.store.jobs[refused] = firerunner.Job{ID: refused, Ours: true, Refused: firerunner.ReasonSizeRefused}
			h.store.jobs[swapped] = firerunner.Job{ID: swapped, RunnerID: "0123456789abcdef"}
			h.store.runners[5000] = firerunner.Runner{GitLabID: 5000}
			w, got := h.deliver(post(hookBody(test.job, test.status, test.runner), "webhook-id", "x"))
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, test.want, got)
			require.Equal(t, []Result{test.want}, h.results)
			require.Equal(t, firerunner.Project{ID: 380, Path: "group/app", SeenAt: h.now}, h.store.projects[380])
			var want []firerunner.Step
			if test.want == Queued {
				want = []firerunner.Step{{Kind: firerunner.StepReadJob, ProjectID: 380, JobID: test.job}}
			}
			require.Equal(t, want, h.store.steps)
			require.Equal(t, 1, h.store.updates, "one transaction")
		})
	}
}

func TestDelivery_Duplicate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first, second *http.Request
		want          Result
	}{
		"same id": {post(hookBody(1, "pending", "null"), "webhook-id", "a"), post(hookBody(1, "pending", "null"), "webhook-id", "a"), Duplicate},
		"older name": {
			post(hookBody(1, "pending", "null"), "Idempotency-Key", "a"),
			post(hookBody(1, "pending", "null"), "Idempotency-Key", "a"), Duplicate,
		},
		"same value, new name": {
			post(hookBody(1, "pending", "null"), "Idempotency-Key", "a"),
			post(hookBody(1, "pending", "null"), "webhook-id", "a"), Duplicate,
		},
		"other id": {post(hookBody(1, "pending", "null"), "webhook-id", "a"), post(hookBody(1, "pending", "null"), "webhook-id", "b"), Queued},
		"no id":    {post(hookBody(1, "pending", "null")), post(hookBody(1, "pending", "null")), Duplicate},
		"status":   {post(hookBody(1, "pending", "null")), post(hookBody(1, "created", "null")), Noted},
		"job":      {post(hookBody(1, "pending", "null")), post(hookBody(2, "pending", "null")), Queued},
	} {
		h := newHouse(t, nil)
		_, got := h.deliver(test.first)
		require.Equal(t, Queued, got, name)
		w, got := h.deliver(test.second)
		require.Equal(t, test.want, got, name)
		require.Equal(t, http.StatusOK, w.Code)
		for key := range h.store.taken {
			require.LessOrEqual(t, len(key), 64, "keys are bounded")
		}
	}
}

// Many at once with one id: exactly one is fresh.
func TestDelivery_Concurrent(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { h.deliver(post(hookBody(1, "pending", "null"), "webhook-id", "a")) })
	}
	all.Wait()
	require.Len(t, h.store.steps, 1)
	fresh := 0
	for _, r := range h.results {
		if r == Queued {
			fresh++
		} else {
			require.Equal(t, Duplicate, r)
		}
	}
	require.Equal(t, 1, fresh)
}

func TestDelivery_ErrStore(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.store.fail = firerunner.Errorf(firerunner.Unavailable, "the disk is full")
	w, got := h.deliver(post(hookBody(1, "pending", "null"), "webhook-id", "a"))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, Unavailable, got)
	require.Contains(t, h.log.String(), "the disk is full")
	require.NotContains(t, w.Body.String(), "disk")

	h.store.fail = nil
	_, got = h.deliver(post(hookBody(1, "pending", "null"), "webhook-id", "a"))
	require.Equal(t, Queued, got, "nothing of the first try was kept")
}

// A client that hangs up does not undo the write.
func TestDelivery_HungUp(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, got := h.deliver(post(hookBody(1, "pending", "null")).WithContext(ctx))
	require.Equal(t, Queued, got)
	require.Len(t, h.store.steps, 1)
}

func TestDelivery_Shed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.DeliveriesPerSecond, cfg.Burst = 1, 2 })
	for i, want := range []Result{Queued, Queued, Shed, Shed} {
		w, got := h.deliver(post(hookBody(int64(i+1), "pending", "null")))
		require.Equal(t, http.StatusOK, w.Code, "GitLab must not switch the webhook off")
		require.Equal(t, want, got)
	}
	require.Len(t, h.store.steps, 2)
	h.pass(time.Second)
	_, got := h.deliver(post(hookBody(9, "pending", "null")))
	require.Equal(t, Queued, got)
	require.Contains(t, h.log.String(), "left to the sweep")
}

func TestRequests_Refused(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		h := newHouse(t, nil)
		r := post(hookBody(1, "pending", "null"))
		r.Method = method
		w, got := h.deliver(r)
		require.Equal(t, BadMethod, got)
		require.Equal(t, http.StatusMethodNotAllowed, w.Code)
		require.Equal(t, http.MethodPost, w.Header().Get("Allow"))
		require.Zero(t, h.store.updates)
	}
}

func TestNetworks_Allowed(t *testing.T) {
	t.Parallel()
	nets := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	for name, test := range map[string]struct {
		allowed, proxies []netip.Prefix
		peer, forwarded  string
		want             int
	}{
		"everybody":                 {nil, nil, "198.51.100.9:1", "", 200},
		"inside":                    {nets("10.0.0.0/8"), nil, "10.1.2.3:4000", "", 200},
		"outside":                   {nets("10.0.0.0/8"), nil, "198.51.100.9:1", "", 403},
		"mapped":                    {nets("10.0.0.0/8"), nil, "[::ffff:10.1.2.3]:4000", "", 200},
		"mapped prefix":             {nets("::ffff:10.0.0.0/104"), nil, "10.1.2.3:4000", "", 200},
		"six":                       {nets("2001:db8::/32"), nil, "[2001:db8::1%eth0]:4000", "", 200},
		"six outside":               {nets("2001:db8::/32"), nil, "[2001:db9::1]:4000", "", 403},
		"claim from a stranger":     {nets("10.0.0.0/8"), nil, "198.51.100.9:1", "10.1.2.3", 403},
		"through the proxy":         {nets("10.0.0.0/8"), nets("192.0.2.0/24"), "192.0.2.1:1", "10.1.2.3", 200},
		"forged left":               {nets("10.0.0.0/8"), nets("192.0.2.0/24"), "192.0.2.1:1", "10.1.2.3, 198.51.100.9", 403},
		"two proxies":               {nets("10.0.0.0/8"), nets("192.0.2.0/24"), "192.0.2.1:1", "1.1.1.1, 10.1.2.3:99, 192.0.2.7", 200},
		"garbage":                   {nets("10.0.0.0/8"), nets("192.0.2.0/24"), "192.0.2.1:1", "10.1.2.3, nonsense", 403},
		"empty":                     {nets("10.0.0.0/8"), nets("192.0.2.0/24"), "192.0.2.1:1", "", 403},
		"the proxy itself":          {nets("192.0.2.0/24"), nets("192.0.2.0/24"), "192.0.2.1:1", "", 200},
		"endless":                   {nets("10.0.0.0/8"), nets("192.0.2.0/24"), "192.0.2.1:1", "10.1.2.3" + strings.Repeat(", 192.0.2.7", 50), 403},
		"no address":                {nets("0.0.0.0/0", "::/0"), nil, "@", "", 403},
		"no address, no allow-list": {nil, nil, "@", "", 200},
	} {
		h := newHouse(t, func(cfg *Config) { cfg.AllowedNetworks, cfg.TrustedProxies = test.allowed, test.proxies })
		r := post(hookBody(1, "pending", "null"))
		r.RemoteAddr = test.peer
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		w, _ := h.deliver(r)
		require.Equal(t, test.want, w.Code, name)
		require.Equal(t, test.want == 200, h.store.updates == 1, name)
	}
}
