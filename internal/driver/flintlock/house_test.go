package flintlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long anything in these tests may take.
const within = 20 * time.Second

const digest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// house is a driver with its hosts, its ledger and guests that call it. Its driver may be replaced, as by a restart.
type house struct {
	*testing.T
	ctx    context.Context
	ledger *ledger
	hosts  []*flintlocktest.Server
	config Config

	mu      sync.Mutex
	driver  *Driver
	changed chan struct{}
	guest   func(ctx context.Context, g *flintlocktest.Guest)
	answers map[string][]error // what Admit said to each microVM's guests
}

// newHouse starts n hosts called h0, h1, ... and a driver.
func newHouse(t *testing.T, n int, change ...func(*Config)) *house {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*within)
	t.Cleanup(cancel)
	h := &house{T: t, ctx: ctx, ledger: newLedger(), changed: make(chan struct{}), answers: map[string][]error{}}
	h.guest = h.obedient
	h.config = Config{
		Namespace: "fr-0123456789ab", Ledger: h.ledger, GuestURL: "192.0.2.1:7443",
		GuestFingerprint: "sha256:" + digest[len("@sha256:"):],
		LookEvery:        50 * time.Millisecond, BusyEvery: 20 * time.Millisecond, HeartbeatTimeout: 2 * time.Second,
		CallTimeout: 3 * time.Second, DestroyTimeout: 10 * time.Second, BreakFor: 100 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	}
	for i := range n {
		h.addHost(flintlocktest.Config{RetryDelay: 200 * time.Millisecond}, Host{Name: fmt.Sprintf("h%d", i), TLS: TLS{Insecure: true}})
	}
	for _, c := range change {
		c(&h.config)
	}
	h.open()
	t.Cleanup(func() { require.NoError(t, h.current().Close()) })
	return h
}

// addHost starts a host and writes it into the configuration.
func (h *house) addHost(server flintlocktest.Config, host Host) *flintlocktest.Server {
	h.Helper()
	server.Dir = h.TempDir()
	server.VMM = flintlocktest.Scripted{Guest: func(ctx context.Context, g *flintlocktest.Guest) {
		h.mu.Lock()
		guest := h.guest
		h.mu.Unlock()
		guest(ctx, g)
	}}
	srv, err := flintlocktest.Start(server)
	require.NoError(h, err)
	h.Cleanup(func() { require.NoError(h, srv.Close()) })
	host.Endpoint = srv.Addr()
	h.hosts = append(h.hosts, srv)
	h.config.Hosts = append(h.config.Hosts, host)
	return srv
}

// open makes a driver on what is there, as a new process does.
func (h *house) open() *Driver {
	h.Helper()
	d, err := New(h.ctx, h.config)
	require.NoError(h, err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.driver = d
	close(h.changed)
	h.changed = make(chan struct{})
	return d
}

// restart ends the driver's process and starts another.
func (h *house) restart() *Driver {
	h.Helper()
	require.NoError(h, h.current().Close())
	return h.open()
}

func (h *house) current() *Driver {
	d, _ := h.now()
	return d
}

func (h *house) now() (*Driver, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.driver, h.changed
}

func (h *house) guests(guest func(ctx context.Context, g *flintlocktest.Guest)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.guest = guest
}

// story is what a guest finds in its metadata.
func story(g *flintlocktest.Guest) (s guestStory) {
	_ = json.Unmarshal([]byte(g.Metadata[firerunnerKey]), &s)
	return s
}

// admitted calls until the desk has an answer, and notes it.
func (h *house) admit(ctx context.Context, g *flintlocktest.Guest) (session firerunner.Secret, err error) {
	s := story(g)
	for ctx.Err() == nil {
		_, session, err = h.current().Admit(ctx, s.ID, firerunner.Secret(s.Token))
		if firerunner.CodeOf(err) != firerunner.Unavailable {
			break
		}
		pause(ctx, 5*time.Millisecond)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers[s.ID] = append(h.answers[s.ID], err)
	return session, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// told are the answers of Admit to a microVM's guests so far.
func (h *house) told(id string) []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]error(nil), h.answers[id]...)
}

// obedient is the guest that the suite asks for: one that calls again after a restart of the daemon.
func (h *house) obedient(ctx context.Context, g *flintlocktest.Guest) {
	session, err := h.admit(ctx, g)
	if err != nil {
		return // it turns itself off
	}
	d, changed := h.now()
	id := g.ID
	orders := d.Orders(id)
	if d.Record(ctx, id, 1, firerunner.GuestReport{Kind: firerunner.ReportHello, Message: "agent test"}) != nil {
		return
	}
	d.Print(id, []byte("I am up\n"))
	_ = d.Record(ctx, id, 2, firerunner.GuestReport{Kind: firerunner.ReportStarted})
	beat := time.NewTicker(100 * time.Millisecond)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			d.Alive(id)
		case <-changed:
			d, changed = h.now()
			if last, err := d.Return(ctx, id, session); err != nil || last != 2 {
				return
			}
			orders = d.Orders(id)
		case order, open := <-orders:
			if !open {
				orders = nil
				continue
			}
			_ = d.Record(ctx, id, 3, firerunner.GuestReport{Kind: firerunner.ReportRunnerExited, Message: string(order)})
			return
		}
	}
}

// spec is a microVM on a host that every host would make.
func (h *house) spec(id, host string) firerunner.MicroVMSpec {
	return firerunner.MicroVMSpec{
		ID: id, Host: host, Size: firerunner.Size{VCPUs: 2, MemoryMiB: 2048}, Deadline: time.Now().Add(time.Hour),
		Image: firerunner.Image{Name: "default", OCI: firerunner.OCIImage{
			Kernel: "registry.example.com/firerunner/kernel:6.1" + digest, KernelFile: "boot/vmlinux",
			RootFS: "registry.example.com/firerunner/root:1" + digest,
		}},
		Start: firerunner.GuestStart{GitLabURL: "https://gitlab.example.com", Token: "glrt-secret", Name: "r"},
	}
}

func (h *house) create(id, host string) firerunner.MicroVM {
	h.Helper()
	vm, err := h.current().Create(h.ctx, h.spec(id, host))
	require.NoError(h, err)
	return vm
}

// until follows until a report of the kind comes and returns it.
func (h *house) until(id string, kind firerunner.ReportKind) (last firerunner.GuestReport) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, within)
	defer cancel()
	enough := errors.New("enough")
	var all []string
	err := h.current().Follow(ctx, id, 0, func(r firerunner.GuestReport) error {
		all = append(all, fmt.Sprintf("%s %s", r.Kind, r.Message))
		if r.Kind == kind {
			last = r
			return enough
		}
		return nil
	})
	require.ErrorIs(h, err, enough, "so far: %s", strings.Join(all, "; "))
	return last
}

// gone waits until no host has anything of an ID.
func (h *house) gone(id string) {
	h.Helper()
	for _, srv := range h.hosts {
		ctx, cancel := context.WithTimeout(h.ctx, within)
		err := srv.Wait(ctx, func(vms []flintlocktest.VM) bool { return len(named(vms, id)) == 0 })
		cancel()
		require.NoError(h, err, "%s is still on a host", id)
	}
}

// destroyed destroys and sees that nothing is left anywhere.
func (h *house) destroyed(id string) {
	h.Helper()
	require.NoError(h, h.current().Destroy(h.ctx, id))
	require.Empty(h, h.leftovers(id))
}

func (h *house) leftovers(id string) (left []string) {
	for i, srv := range h.hosts {
		for _, vm := range named(srv.VMs(), id) {
			left = append(left, fmt.Sprintf("h%d: %s", i, vm.UID))
		}
	}
	if h.ledger.has(id) {
		left = append(left, "ledger")
	}
	if _, ok := h.current().vms.get(id); ok {
		left = append(left, "memory")
	}
	return left
}

func named(vms []flintlocktest.VM, id string) (found []flintlocktest.VM) {
	for _, vm := range vms {
		if vm.ID == id {
			found = append(found, vm)
		}
	}
	return found
}

// kill ends a machine behind everybody's back. A scripted guest may speak before its host has noted that it runs.
func (h *house) kill(srv *flintlocktest.Server, id string) {
	h.Helper()
	vms := named(srv.VMs(), id)
	require.Len(h, vms, 1)
	_, err := srv.WaitVM(h.ctx, vms[0].UID, func(vm flintlocktest.VM) bool { return vm.State == "CREATED" })
	require.NoError(h, err)
	require.True(h, srv.Kill(vms[0].UID))
}

func (h *house) listed(id string) (vm firerunner.MicroVM, ok bool) {
	h.Helper()
	vms, err := h.current().List(h.ctx)
	require.NoError(h, err)
	for _, v := range vms {
		if v.ID == id {
			return v, true
		}
	}
	return vm, false
}
