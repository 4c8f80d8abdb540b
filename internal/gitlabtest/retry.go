package gitlabtest

import (
	"slices"

	"gopkg.in/yaml.v3"
)

// retrySpec is a job's retry: how often GitLab makes a new job of one that failed, and for which reasons. The zero value
// is never.
// Source: https://docs.gitlab.com/ci/yaml/#retry
type retrySpec struct {
	most int
	when []string // empty: whatever the reason
}

// retryReasons are the words of retry:when in GitLab 19.1 and later.
// Source: https://docs.gitlab.com/ci/yaml/#retrywhen
func retryReasons() []string {
	return []string{
		"always", "unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure", "stuck_pending_with_matching_runners",
		"stuck_pending_no_matching_runners", "no_updates_running", "no_updates_canceling", "runner_system_failure",
		"runner_configuration_error", "runner_external_dependency_failure", "runner_interrupted", "missing_dependency_failure",
		"runner_unsupported", "stale_schedule", "job_execution_timeout", "server_timeout_running", "server_timeout_canceling",
		"archived_failure", "unmet_prerequisites", "scheduler_failure", "data_integrity_failure",
	}
}

// stuck are the reasons that 19.1 made of stuck_or_timeout_failure; a retry:when with the old word means them.
func stuck() []string {
	return []string{"stuck_pending_with_matching_runners", "stuck_pending_no_matching_runners", "no_updates_running", "no_updates_canceling"}
}

const mostRetries = 2

// retry reads the keyword: a number, or max and when.
func (p *ciParser) retry(n *yaml.Node, what string) (r retrySpec) {
	n = p.resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		r.most = p.number(n, what, 0, mostRetries)
		return r
	}
	for _, field := range p.fields(n, what) {
		name := what + ": " + field.key
		switch field.key {
		case "max":
			r.most = p.number(field.value, name, 0, mostRetries)
		case "when":
			r.when = p.texts(field.value, name)
			for _, reason := range r.when {
				if !slices.Contains(retryReasons(), reason) {
					p.fail(field.line, "%s: %q is no reason for a failure", name, reason)
				}
			}
		default:
			p.fail(field.line, "%s: key %q is not supported", what, field.key)
		}
	}
	return r
}

// retried reports whether GitLab makes a new job of one that has failed, by itself.
func (j *job) retried() bool {
	r := j.spec.Retry
	if j.Status != StatusFailed || j.Retried || j.RetriesCount >= r.most {
		return false
	}
	return len(r.when) == 0 || slices.ContainsFunc(r.when, func(reason string) bool {
		return reason == "always" || reason == j.FailureReason ||
			reason == "stuck_or_timeout_failure" && slices.Contains(stuck(), j.FailureReason)
	})
}
