package control_test

import (
	"context"

	"github.com/firerunner/firerunner"
)

// A tap stands before and after everything that control does to the world outside its memory. It may look, fail the
// call, or hold it; point is such as "driver.create:before" or "store.update:after".
type tap func(ctx context.Context, point string) error

// tapped runs do between two points.
func tapped[T any](ctx context.Context, t tap, what string, do func() (T, error)) (v T, err error) {
	if err = t(ctx, what+":before"); err != nil {
		return v, err
	}
	if v, err = do(); err != nil {
		return v, err
	}
	return v, t(ctx, what+":after")
}

func tappedErr(ctx context.Context, t tap, what string, do func() error) error {
	_, err := tapped(ctx, t, what, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

type tapStore struct {
	firerunner.Store
	tap     tap
	changed func()
}

func (s tapStore) Update(ctx context.Context, do func(firerunner.Tx) error) error {
	return tappedErr(ctx, s.tap, "store.update", func() error {
		defer s.changed()
		return s.Store.Update(ctx, do)
	})
}

type tapGitLab struct {
	firerunner.GitLab
	tap tap
}

func (g tapGitLab) CreateRunner(ctx context.Context, r firerunner.CredentialRequest) (firerunner.Credential, error) {
	return tapped(ctx, g.tap, "gitlab.create", func() (firerunner.Credential, error) { return g.GitLab.CreateRunner(ctx, r) })
}

func (g tapGitLab) PauseRunner(ctx context.Context, id int64) error {
	return tappedErr(ctx, g.tap, "gitlab.pause", func() error { return g.GitLab.PauseRunner(ctx, id) })
}

func (g tapGitLab) DeleteRunner(ctx context.Context, id int64) error {
	return tappedErr(ctx, g.tap, "gitlab.delete", func() error { return g.GitLab.DeleteRunner(ctx, id) })
}

func (g tapGitLab) RunnerJobs(ctx context.Context, id int64) ([]firerunner.Job, error) {
	return tapped(ctx, g.tap, "gitlab.runnerjobs", func() ([]firerunner.Job, error) { return g.GitLab.RunnerJobs(ctx, id) })
}

func (g tapGitLab) Job(ctx context.Context, projectID, jobID int64) (firerunner.Job, error) {
	return tapped(ctx, g.tap, "gitlab.job", func() (firerunner.Job, error) { return g.GitLab.Job(ctx, projectID, jobID) })
}

func (g tapGitLab) FailJob(ctx context.Context, jobID int64, token firerunner.Secret, why string) (bool, error) {
	return tapped(ctx, g.tap, "gitlab.failjob", func() (bool, error) {
		return g.GitLab.(firerunner.JobFailer).FailJob(ctx, jobID, token, why)
	})
}

type tapDriver struct {
	firerunner.Driver
	tap tap
}

func (d tapDriver) Create(ctx context.Context, spec firerunner.MicroVMSpec) (firerunner.MicroVM, error) {
	return tapped(ctx, d.tap, "driver.create", func() (firerunner.MicroVM, error) { return d.Driver.Create(ctx, spec) })
}

func (d tapDriver) Destroy(ctx context.Context, id string) error {
	return tappedErr(ctx, d.tap, "driver.destroy", func() error { return d.Driver.Destroy(ctx, id) })
}

func (d tapDriver) Order(ctx context.Context, id string, order firerunner.GuestOrder) error {
	return tappedErr(ctx, d.tap, "driver.order", func() error { return d.Driver.Order(ctx, id, order) })
}

func (d tapDriver) Follow(ctx context.Context, id string, after int64, report func(firerunner.GuestReport) error) error {
	if err := d.tap(ctx, "driver.follow:before"); err != nil {
		return err
	}
	return d.Driver.Follow(ctx, id, after, report)
}
