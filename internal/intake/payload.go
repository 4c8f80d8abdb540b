package intake

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/firerunner/firerunner"
)

// mostPath bounds a project's path, in characters.
const mostPath = 512

var errNotJSON = errors.New("the body is not JSON")

// hook is all that is taken from a Job Hook
// (https://docs.gitlab.com/user/project/integrations/webhook_events/#job-events). The job's tags are not in it.
type hook struct {
	jobID     int64
	projectID int64
	path      string // of the project; for people
	status    firerunner.JobStatus
	runnerID  int64 // GitLab's id of the runner that has the job; 0 = none yet
}

// parse reads a Job Hook (a Build Hook, as it was called once). errNotJSON is what GitLab never sends; every other
// error says why a delivery is ignored. Only the fields that are needed are looked at, each by itself, so that an
// odd value elsewhere, or a custom template, costs nothing.
func parse(h http.Header, body []byte) (hook, error) {
	if event := h.Get("X-Gitlab-Event"); event != "Job Hook" && event != "Build Hook" {
		return hook{}, fmt.Errorf("not a job event: %q", bounded(event, 40))
	}
	if !json.Valid(body) {
		return hook{}, errNotJSON
	}
	var said struct {
		Kind        json.RawMessage `json:"object_kind"`
		BuildID     json.RawMessage `json:"build_id"`
		BuildStatus json.RawMessage `json:"build_status"`
		ProjectID   json.RawMessage `json:"project_id"`
		ProjectName json.RawMessage `json:"project_name"`
		Project     json.RawMessage `json:"project"`
		Runner      json.RawMessage `json:"runner"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return hook{}, errors.New("the body is not an object")
	}
	var got hook
	var status string
	if kind := word(said.Kind); kind != "build" {
		return hook{}, fmt.Errorf("object_kind is not build: %q", bounded(kind, 40))
	}
	if got.jobID = id(said.BuildID); got.jobID == 0 {
		return hook{}, errors.New("build_id is not an id")
	}
	if got.projectID = id(said.ProjectID); got.projectID == 0 {
		return hook{}, errors.New("project_id is not an id")
	}
	if status = word(said.BuildStatus); !statusLike(status) {
		return hook{}, errors.New("build_status is not a status")
	}
	got.status = firerunner.JobStatus(status)

	var runner, project map[string]json.RawMessage
	if json.Unmarshal(said.Runner, &runner) == nil {
		got.runnerID = id(runner["id"])
	}
	if json.Unmarshal(said.Project, &project) == nil {
		got.path = bounded(word(project["path_with_namespace"]), mostPath)
	}
	if got.path == "" { // older servers: "Group / Project"
		got.path = bounded(strings.ReplaceAll(word(said.ProjectName), " / ", "/"), mostPath)
	}
	return got, nil
}

// id reads a positive whole number; 0 for anything else.
func id(raw json.RawMessage) int64 {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// word reads a string; empty for anything else.
func word(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// statusLike reports whether s could be one of GitLab's statuses, also of those to come.
func statusLike(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// bounded cuts a foreign string to a number of characters, and drops what cannot be printed.
func bounded(s string, most int) string {
	if len(s) > most*utf8.UTFMax {
		s = s[:most*utf8.UTFMax]
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most])
	}
	return s
}

// deliveryKey tells one delivery from the next. GitLab gives a delivery that is sent again the same webhook-id
// (19.0), which was called Idempotency-Key before (17.4); without both it is the job and its status. The key is
// hashed, which bounds it.
func deliveryKey(h http.Header, said hook) string {
	for _, name := range []string{"webhook-id", "Idempotency-Key"} {
		if v := h.Get(name); v != "" {
			sum := sha256.Sum256([]byte(v))
			return "id:" + hex.EncodeToString(sum[:16])
		}
	}
	return fmt.Sprintf("job:%d:%s", said.jobID, said.status)
}
