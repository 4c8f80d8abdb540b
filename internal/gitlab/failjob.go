package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

// jobToken is the header by which a job speaks for itself. FireRunner's own token is not sent beside it.
const jobToken = "JOB-TOKEN"

const (
	mostAppends  = 4    // tries to write the last line of a log to which somebody still writes
	mostLastLine = 1024 // characters of it
)

var _ firerunner.JobFailer = (*Client)(nil)

// FailJob implements firerunner.JobFailer with two calls of the runner protocol: PATCH /jobs/:id/trace for the line, which
// GitLab takes of a running job only, then PUT /jobs/:id (https://docs.gitlab.com/api/runners/, lib/api/ci/runner.rb in
// GitLab). Both are refused with 403 when the job has ended or the token is another job's.
func (c *Client) FailJob(ctx context.Context, jobID int64, token firerunner.Secret, why string) (told bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, callName{}, "fail_job"), c.timeout)
	defer cancel()
	doing := fmt.Sprintf("telling that job %d failed", jobID)
	if _, written := c.lastLines.Load(jobID); !written {
		if err := c.appendLine(ctx, jobID, token, why); err != nil {
			c.log.Debug("the last line of a job's log could not be written", "job", jobID, "error", err)
		} else {
			c.lastLines.Store(jobID, true)
		}
	}
	defer func() {
		if err == nil {
			c.lastLines.Delete(jobID)
		}
	}()
	body, err := json.Marshal(map[string]string{"token": token.Reveal(), "state": "failed", "failure_reason": firerunner.SystemFailure})
	if err != nil {
		return false, firerunner.Errorf(firerunner.Internal, "gitlab: %s: %w", doing, err)
	}
	resp, err := c.asJob(ctx, http.MethodPut, fmt.Sprintf("jobs/%d", jobID), token, body, http.Header{"Content-Type": {"application/json"}})
	switch {
	case err != nil:
		return false, c.failed(ctx, doing, nil, err)
	case resp.StatusCode == http.StatusOK:
		return true, nil
	case resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusNotFound:
		return false, nil
	case resp.StatusCode < 300: // 202: GitLab has not finished with the log, and wants to be told again
		return false, firerunner.Errorf(firerunner.Unavailable, "gitlab: %s: GitLab answered %d, and is not done yet", doing, resp.StatusCode)
	}
	return false, c.failed(ctx, doing, resp, errors.New(resp.Status))
}

// appendLine writes a line at the end of the job's log. Where that is, GitLab says by refusing the wrong place: 416 with
// Range: 0-<length>.
func (c *Client) appendLine(ctx context.Context, jobID int64, token firerunner.Secret, why string) error {
	// A line of its own in red, as gitlab-runner writes its errors.
	line := []byte("\n\x1b[31;1mFireRunner: " + clean(why, mostLastLine) + "\x1b[0;m\n")
	at := 0
	for range mostAppends {
		resp, err := c.asJob(ctx, http.MethodPatch, fmt.Sprintf("jobs/%d/trace", jobID), token, line, http.Header{
			"Content-Type": {"text/plain"}, "Content-Range": {fmt.Sprintf("%d-%d", at, at+len(line)-1)},
		})
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			if resp.StatusCode >= 300 {
				return fmt.Errorf("GitLab answered %d", resp.StatusCode)
			}
			return nil
		}
		length, found := strings.CutPrefix(resp.Header.Get("Range"), "0-")
		if at, err = strconv.Atoi(length); err != nil || !found || at < 0 {
			return errors.New("GitLab does not say how long the log is")
		}
	}
	return errors.New("somebody still writes to it")
}

// asJob sends one request with a job's token. Of the answer's body only what an error says is left (see errorBody).
func (c *Client) asJob(ctx context.Context, method, path string, token firerunner.Secret, body []byte, header http.Header) (*gl.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath("api/v4", path).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json")
	req.Header.Set(jobToken, token.Reveal())
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return &gl.Response{Response: resp}, nil
}
