package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/firerunner/firerunner"
)

// stop removes everything that a runner had: microVM with disk and network, and its runner in GitLab. Stopping → Gone
// only once both are absent; until then the queue tries again. Each removal may be done twice.
func (c *Control) stop(ctx context.Context, r firerunner.Runner) error {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	err := errors.Join(
		wrap(c.Driver.Destroy(ctx, r.ID), "destroying microVM %s", r.ID),
		c.deleteOrphans(callCtx, r),
	)
	if err != nil {
		return err
	}
	return c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, r.ID)
		if err != nil || r.State != firerunner.Stopping {
			return err
		}
		message := "microVM, disk and network are gone"
		if r.GitLabID > 0 {
			message += fmt.Sprintf("; runner %d deleted in GitLab", r.GitLabID)
		}
		return c.move(ctx, ch, &r, firerunner.Gone, firerunner.OwnerStop, message)
	})
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
