package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

// machine is a site that is one of several controllers, whose microVMs nobody else reaches: as on a machine of its own.
type machine struct {
	*site
	name, host string // of the controller, and of its machine
}

// newMachines starts two controllers on one PostgreSQL.
func newMachines(t *testing.T) (a, b machine) {
	t.Helper()
	if under.skip != "" {
		t.Skip(under.skip)
	}
	url := postgrestest.New(t)
	start := func(name string, beside *site) machine {
		host := "machine-" + name
		s := newSite(t, options{
			slots: 2, database: url, beside: beside,
			config: fmt.Sprintf("controller: {name: %s}\n", name), settings: []string{"scheduler.host_name=" + host},
		})
		return machine{s, name, host}
	}
	a = start("a", nil)
	return a, start("b", a.site)
}

// untilTold is a job that runs until somebody commits a file to its repository.
const untilTold = `untilTold:
  script:
    - git init -q there
    - |
      for i in $(seq 900); do
        echo second $i
        if [ $((i % 5)) = 0 ]; then
          git -C there fetch -q --depth 1 "$CI_REPOSITORY_URL" HEAD && git -C there cat-file -e FETCH_HEAD:enough 2>/dev/null && break
        fi
        sleep 1
      done
    - echo finished
`

// TestMachines kills the leader of two controllers whose microVMs nobody else reaches, while one of them runs a job. The
// job goes on without it; the other controller leads, and its machine takes the next jobs. The one that is started again
// takes up the microVM in which the job still runs.
func TestMachines(t *testing.T) {
	t.Parallel()
	dies, lives := newMachines(t)
	dies.eventually("a leader", func() bool {
		if dies.sees(lives.name).State == "leads" {
			dies, lives = lives, dies
		}
		return dies.sees(dies.name).State == "leads"
	})
	lives.cli("hosts", "drain", lives.host)
	j := dies.only(untilTold)
	dies.says(j.ID, "second 2\n")
	r := dies.row(j.ID)
	require.Equal(t, []string{dies.name, dies.host}, []string{r.Controller, r.Host})
	vm := dies.qemu(r.ID)
	lives.cli("hosts", "accept", lives.host)

	dies.kill()
	seen := lives.seesState(dies.name, "away")
	require.Equal(t, 1, seen.Runners)
	require.NotNil(t, seen.Since, "an operator wants to know since when")
	lives.seesState(lives.name, "leads")
	lives.eventually("a machine that takes no work", func() bool { return lives.trouble(dies.host) != "" })
	require.Equal(t, fmt.Sprintf("its controller %q is away", dies.name), lives.trouble(dies.host))
	next := lives.only("next:\n  script: ['true']\n")
	lives.succeeded(next.ID)
	require.Equal(t, lives.host, lives.row(next.ID).Host, "the other machine has room, but nobody to use it")
	dies.goesOn(j.ID)
	require.Equal(t, firerunner.Running, lives.row(j.ID).State)
	require.NotNil(t, lives.seesState(dies.name, "away").Since)

	dies.start()
	require.Equal(t, vm, dies.qemu(r.ID), "the same microVM")
	lives.seesState(dies.name, "serves")
	lives.eventually("a machine that takes work again", func() bool { return lives.trouble(dies.host) == "" })
	dies.goesOn(j.ID)
	require.Equal(t, firerunner.Running, dies.row(j.ID).State)
	lives.cli("hosts", "drain", lives.host)
	last, err := dies.gitlab.Push(dies.project.ID, map[string]string{"enough": "", ".gitlab-ci.yml": ci("last:\n  script: ['true']\n")})
	require.NoError(t, err)
	done := dies.succeeded(j.ID)
	require.Contains(t, dies.trace(j.ID), "finished")
	require.Len(t, done.Handouts, 1)
	after := dies.ended(r.ID, firerunner.Succeeded, firerunner.ReasonJobDone)
	require.Equal(t, done.RunnerID, after.GitLabID)
	dies.succeeded(last.JobIDs[0])
	require.Equal(t, dies.host, dies.row(last.JobIDs[0]).Host)

	all := len(dies.gitlab.Jobs(gitlabtest.JobFilter{}))
	require.Len(t, dies.rows(firerunner.RunnerQuery{}), all, "one runner for each job")
	require.Equal(t, all, dies.made()+lives.made(), "one microVM for each job")
}

// goesOn waits until a job has said more than it has now.
func (s *site) goesOn(id int64) {
	s.t.Helper()
	before := len(s.gitlab.Trace(id))
	s.eventually("more of the job's log", func() bool { return len(s.gitlab.Trace(id)) > before })
}

// trouble is why a host takes no work.
func (s *site) trouble(host string) string {
	s.t.Helper()
	hosts, err := s.store.Hosts(s.t.Context())
	require.NoError(s.t, err)
	for _, h := range hosts {
		if h.Name == host {
			return h.Trouble
		}
	}
	require.Fail(s.t, "there is no host "+host)
	return ""
}

// made is how many microVMs the daemon says it has made.
func (s *site) made() (n int) {
	lines, _ := s.log()
	for _, l := range lines {
		if l.Message == "microVM made" {
			n++
		}
	}
	return n
}
