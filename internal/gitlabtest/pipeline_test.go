package gitlabtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestPipelineOK(t *testing.T) {
	t.Parallel()
	f := start(t)
	jobs := f.push("stages: [build, test]\nb:\n  stage: build\n  script: [make]\nt:\n  script: make test\n")
	require.Len(t, jobs, 2)
	require.Equal(t, gitlabtest.StatusPending, jobs[0].Status)
	require.Equal(t, gitlabtest.StatusCreated, jobs[1].Status)
	r := f.runner()
	for _, want := range jobs {
		j := f.take(r)
		require.Equal(t, want.ID, j.ID)
		a := f.do("PUT", "/api/v4/jobs/"+itoa(j.ID), object{"token": j.Token, "state": "success"})
		require.Equal(t, 200, a.status, "%s", a.body)
	}
	p, err := f.WaitPipeline(f.ctx, jobs[0].PipelineID)
	require.NoError(t, err)
	require.Equal(t, gitlabtest.StatusSuccess, p.Status)
}
