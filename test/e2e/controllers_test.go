package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

// secondEndpoint is where guests find the second daemon.
const secondEndpoint = "192.0.2.21:8443"

// pair is two controllers on one PostgreSQL, which share the hosts of a cast.
type pair struct {
	*cast
	t     *testing.T
	both  [2]*site // of one GitLab; the first has made it
	url   string   // of the database
	store *postgres.Store
}

// newPair starts two controllers of this version.
func newPair(t *testing.T) *pair {
	t.Helper()
	p := preparePair(t, "")
	for _, s := range p.both {
		s.start()
	}
	p.open()
	return p
}

// preparePair makes two controllers, a and b, that are not started yet. GitLab's webhooks go to hook; empty: to each of both.
func preparePair(t *testing.T, hook string) *pair {
	t.Helper()
	if under.skip != "" {
		t.Skip(under.skip)
	}
	p := &pair{t: t, cast: newCast(t, hostNoise{}, hostNoise{}), url: postgrestest.New(t)}
	p.second = freePort(t)
	for i, name := range []string{"a", "b"} {
		dir, err := os.MkdirTemp("/tmp", "fr-")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
		s := &site{t: t, dir: dir, program: under.daemon, guestURL: guestGitLab, webhooks: freePort(t), metrics: freePort(t)}
		if i == 0 {
			s.startGitLab(options{hook: hook})
		} else {
			s.join(p.both[0], hook)
		}
		s.writeConfig(4, p.fleet, s.keepIn(p.url)+fmt.Sprintf("controller: {name: %s, lease_time: 4s}\n", name))
		if i == 1 {
			text := strings.NewReplacer(fmt.Sprint("port: ", p.guests), fmt.Sprint("port: ", p.second), guestEndpoint, secondEndpoint).Replace(readAll(s.configFile()))
			require.NoError(t, os.WriteFile(s.configFile(), []byte(text), 0o600))
		}
		p.both[i] = s
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("controller %s:\n%s", name, tail(readAll(s.logFile()), 150))
			}
			if s.daemon != nil {
				s.daemon.signal(syscall.SIGKILL)
				<-s.daemon.ended
			}
		})
	}
	return p
}

// open opens the database beside the controllers, which have made its tables.
func (p *pair) open() {
	p.t.Helper()
	for _, s := range p.both {
		s.open(p.url)
		p.t.Cleanup(func() { require.NoError(p.t, s.store.Close()) })
	}
	p.store = p.both[0].store.(*postgres.Store)
}

// leader is the controller that has the site's lease, and the other.
func (p *pair) leader() (leads, other *site) {
	p.t.Helper()
	var holder string
	p.both[0].eventually("a controller that leads", func() bool {
		leases, err := p.store.LeasesOf(p.t.Context(), firerunner.SiteLease)
		require.NoError(p.t, err)
		if len(leases) == 1 && !leases[0].Over {
			holder = leases[0].Holder
		}
		return holder != ""
	})
	for i, s := range p.both {
		if strings.TrimSpace(readAll(s.state("controller"))) == holder {
			return s, p.both[1-i]
		}
	}
	p.t.Fatalf("%s holds the site's lease", holder)
	return nil, nil
}

// settle waits until nothing is left of any job, and holds the event log to what must be true of all of it.
func (p *pair) settle() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	for i, h := range p.hosts {
		require.NoError(p.t, h.Wait(ctx, func(vms []flintlocktest.VM) bool { return len(vms) == 0 }), "microVMs on h%d", i+1)
	}
	p.both[0].eventually("no live row", func() bool {
		live, err := p.store.Runners(ctx, firerunner.RunnerQuery{Live: true})
		require.NoError(p.t, err)
		return len(live) == 0
	})
	for _, partition := range []string{"flintlock", "flintlock@a", "flintlock@b"} {
		rows, err := p.store.VMs(ctx, partition)
		require.NoError(p.t, err)
		require.Empty(p.t, rows, "rows of the ledger of %s", partition)
	}
	p.both[0].eventually("no runner in GitLab", func() bool { return len(p.both[0].gitlab.Runners()) == 0 })
}

// once requires that each job was given to one runner only, and that no runner took two.
func (p *pair) once(ids ...int64) {
	p.t.Helper()
	takers := map[int64]int64{}
	for _, id := range ids {
		j, ok := p.both[0].gitlab.Job(id)
		require.True(p.t, ok)
		require.Equal(p.t, gitlabtest.StatusSuccess, j.Status, "job %s: %s", j.Name, j.FailureReason)
		require.Len(p.t, j.Handouts, 1, "job %s was given away more than once", j.Name)
		require.Zero(p.t, takers[j.Handouts[0].RunnerID], "a runner took two jobs")
		takers[j.Handouts[0].RunnerID] = id
	}
}

// leaderKills is how often the leading controller is killed. Every fifth time it stays away until another stands in for it.
const leaderKills = 20

// TestControllers kills the leader of two controllers again and again while jobs run: each job runs once, in one microVM,
// the next one starts within ten seconds, and nothing of any of it is left. Then one is suspended until it is taken for
// dead, and one is upgraded while a job runs.
func TestControllers(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	all := p.both[0].push(ci("a: {script: ['true']}\nb: {script: ['true']}\nc: {script: ['true']}\nd: {script: ['true']}\n")).JobIDs
	for _, id := range all {
		p.both[0].succeeded(id)
	}
	var slowest time.Duration
	for n := range leaderKills {
		leads, _ := p.leader()
		long := p.long(3 * time.Second)
		leads.kill()
		killed := time.Now()
		next := p.both[0].only("next:\n  script: ['true']\n")
		p.both[0].succeeded(next.ID)
		j, _ := p.both[0].gitlab.Job(next.ID)
		slowest = max(slowest, j.StartedAt.Sub(killed))
		require.Less(t, j.StartedAt.Sub(killed), 10*time.Second, "kill %d: the next job started late", n+1)
		p.both[0].succeeded(long)
		all = append(all, long, next.ID)
		if n%5 == 4 {
			p.settle()
		}
		leads.start()
	}
	t.Logf("%d kills: the next job started at most %s after", leaderKills, slowest)
	all = append(all, p.suspended(), p.upgraded())
	p.settle()
	p.once(all...)
	for _, s := range p.both {
		s.stop()
	}
	controllers, err := p.store.Controllers(t.Context())
	require.NoError(t, err)
	require.Empty(t, controllers, "who has ended and left nothing is forgotten")
}

// long starts a job of that length and waits until it runs.
func (p *pair) long(takes time.Duration) (id int64) {
	p.t.Helper()
	p.jobTime.Store(int64(takes))
	id = p.both[0].only("long:\n  script: ['sleep']\n").ID
	p.both[0].eventually("a job that runs", func() bool {
		j, _ := p.both[0].gitlab.Job(id)
		return j.Status == gitlabtest.StatusRunning
	})
	p.jobTime.Store(int64(20 * time.Millisecond))
	return id
}

// suspended stops a process as a hypervisor does, until the other has taken its leases. When it goes on it writes nothing
// any more, and ends.
func (p *pair) suspended() (job int64) {
	p.t.Helper()
	leads, other := p.leader()
	job = p.long(3 * time.Second)
	leads.daemon.signal(syscall.SIGSTOP)
	p.both[0].succeeded(job)
	other.eventually("another leader", func() bool {
		leases, err := p.store.LeasesOf(p.t.Context(), firerunner.SiteLease)
		require.NoError(p.t, err)
		return len(leases) == 1 && leases[0].Holder == strings.TrimSpace(readAll(other.state("controller")))
	})
	other.eventually("nothing left of the suspended one", func() bool {
		live, err := p.store.Runners(p.t.Context(), firerunner.RunnerQuery{Live: true})
		require.NoError(p.t, err)
		return len(live) == 0
	})
	leads.daemon.signal(syscall.SIGCONT)
	_, ended := leads.daemon.wait(30 * time.Second)
	if !ended { // nobody had to stand in for it, because nothing of it was there: then it goes on
		leases, err := p.store.LeasesOf(p.t.Context(), firerunner.ControllerLeases)
		require.NoError(p.t, err)
		require.Len(p.t, leases, 2)
		return job
	}
	require.Contains(p.t, readAll(leads.logFile()), "was taken for dead")
	leads.start()
	return job
}

// upgraded ends the controller whose microVM has a job with SIGTERM: it ends at once, the other goes on with the job, and
// the next version comes up beside it.
func (p *pair) upgraded() (job int64) {
	p.t.Helper()
	job = p.long(8 * time.Second)
	runner := func() firerunner.Runner {
		live, err := p.store.Runners(p.t.Context(), firerunner.RunnerQuery{Live: true})
		require.NoError(p.t, err)
		require.Len(p.t, live, 1)
		return live[0]
	}
	has := p.both[0]
	if runner().Controller == "b" {
		has = p.both[1]
	}
	began := time.Now()
	has.stop()
	require.Less(p.t, time.Since(began), 5*time.Second, "it hands its runners over and waits for none")
	require.Equal(p.t, firerunner.Running, runner().State)
	has.start()
	p.both[0].succeeded(job)
	return job
}
