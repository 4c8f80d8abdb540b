package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// findTime is how long listing our runners in GitLab may take, all pages together.
const findTime = 5 * time.Minute

// runnersPage is how many runners GitLab lists in one request.
const runnersPage = 100

// reapGitLab removes runners in GitLab that begin with our marker and that no live runner has. It is enough that one
// controller does it.
func (c *Control) reapGitLab(ctx context.Context, o ReapOptions) ([]Leftover, error) {
	listed, err := c.findOurs(ctx)
	errs := []error{err}
	owned, err := c.owned(ctx) // after the list: one that was made meanwhile is not in it
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	var found []Leftover
	for _, g := range listed {
		id, ours := strings.CutPrefix(g.Description, c.marker())
		left := Leftover{Kind: LeftGitLabRunner, ID: id, GitLabID: g.ID, Born: bornAt(id, c.Now()), Why: "no live runner here has it"}
		if !ours || owned[id] || o.young(left.Born, c.Now()) {
			continue
		}
		if !o.DryRun {
			removed, err := c.reapCredential(ctx, g.ID, id)
			if err == nil && !removed {
				continue
			}
			left.Err = err
			errs = append(errs, err)
		}
		found = append(found, left)
	}
	return found, errors.Join(errs...)
}

func (c *Control) reapCredential(ctx context.Context, gitlabID int64, id string) (removed bool, err error) {
	if free, err := c.disowned(ctx, id); err != nil || !free {
		return false, err
	}
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	if err := c.GitLab.DeleteRunner(callCtx, gitlabID); err != nil {
		return false, fmt.Errorf("reaping GitLab runner %d: %w", gitlabID, err)
	}
	return true, c.reaped(ctx, id, fmt.Sprintf("runner %d in GitLab without a live runner here", gitlabID))
}

// findOurs lists the runners in GitLab that carry our marker, in every project that the token may see: also in those that
// we have not heard of for long, or never knew. Where GitLab does not tell them all at once, each known project is asked.
func (c *Control) findOurs(ctx context.Context) ([]firerunner.GitLabRunner, error) {
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	all, err := c.GitLab.FindRunners(ctx, 0, c.marker())
	c.sweeper.budget.charge(1 + len(all)/runnersPage)
	var limited rateLimited
	switch code := firerunner.CodeOf(err); {
	case code == "":
		return all, nil
	case errors.As(err, &limited):
		return all, fmt.Errorf("listing our runners in GitLab: %w", err)
	case code == firerunner.Unauthorized, code == firerunner.NotFound, code == firerunner.Exhausted: // Exhausted: too many pages
	default:
		return all, fmt.Errorf("listing our runners in GitLab: %w", err)
	}
	projects, readErr := c.Store.Projects(ctx, time.Time{})
	if readErr != nil {
		return all, fmt.Errorf("listing projects: %w", readErr)
	}
	var errs []error
	c.sweeper.budget.charge(len(projects))
	var reached reach
	for _, p := range projects {
		found, err := c.GitLab.FindRunners(ctx, p.ID, c.marker())
		if err != nil {
			errs = append(errs, fmt.Errorf("listing our runners of project %d in GitLab: %w", p.ID, err))
		}
		if c.lostReach(ctx, &reached, err) {
			break
		}
		for _, g := range found {
			if !slices.ContainsFunc(all, func(known firerunner.GitLabRunner) bool { return known.ID == g.ID }) {
				all = append(all, g)
			}
		}
	}
	return all, errors.Join(errs...)
}
