package control

import (
	"context"

	"github.com/firerunner/firerunner"
)

// reach is what one round of questions to GitLab has learned about whether it answers at all.
type reach struct{ unanswered int }

// unansweredMost is after how many questions in a row without an answer GitLab itself is asked for a sign of life: a few
// projects may be broken while GitLab is not.
const unansweredMost = 3

// lostReach reports whether a round is to end because GitLab does not answer, or answers that it is asked too much. What is left is
// for the next round: a thousand projects must not be a thousand questions, each with a timeout, to who cannot answer.
func (c *Control) lostReach(ctx context.Context, r *reach, err error) bool {
	switch firerunner.CodeOf(err) {
	case firerunner.Unavailable, firerunner.Exhausted:
	default:
		r.unanswered = 0
		return false
	}
	if r.unanswered++; r.unanswered < unansweredMost {
		return false
	}
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	_, err = c.GitLab.Check(callCtx)
	switch firerunner.CodeOf(err) {
	case firerunner.Unavailable, firerunner.Exhausted:
		return true
	}
	r.unanswered = 0
	return false
}
