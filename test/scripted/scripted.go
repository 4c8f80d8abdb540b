// Package scripted plays the guests of emulated hosts: the agent's end of the guest endpoint and gitlab-runner's end of
// GitLab are the real protocols, and no machine boots. It is for tests alone.
package scripted

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/guest"
)

// Guests is how guests are played. Play is a [flintlocktest.Scripted]'s Guest.
type Guests struct {
	// Runner is what they do once they have their start; its Client is each guest's own.
	Runner func() fake.Runner
	// Dial is a guest's network; nil: this machine's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Refused is told of each guest that the guest endpoint turned away for good; may be nil.
	Refused func(vm string)
	// Heartbeat is how often a guest gives a sign of life; 0 = as often as it is told, as a real one.
	Heartbeat time.Duration
	// AsAgent makes them as patient as the agent: when they give a sign of life, and how soon they call again, is its own.
	AsAgent bool
}

// Play is the life of one guest. It ends when its job has ended, when it is refused, and when it is killed. What it said
// and nobody has written down it says again, for as long as it takes, to whoever listens.
func (p *Guests) Play(ctx context.Context, g *flintlocktest.Guest) {
	m, err := guest.DecodeMetadata([]byte(g.Metadata[guest.MetadataKey]))
	if err != nil {
		fmt.Fprintln(g.Console, err)
		return
	}
	heartbeat := cmp.Or(p.Heartbeat, m.Heartbeat)
	call := guest.CallerConfig{
		ID: m.ID, Token: m.Token, Endpoint: m.Endpoint, Fingerprint: m.Fingerprint, Others: m.Others, DialContext: p.Dial,
		Hello: guest.FromGuest{Agent: "played", Kernel: "6.1"},
	}
	if !p.AsAgent {
		call.Heartbeat, call.Silence, call.MinBackoff, call.MaxBackoff = heartbeat, max(5*time.Second, 3*heartbeat), 20*time.Millisecond, 200*time.Millisecond
	}
	caller := guest.Call(call)
	defer caller.Close()
	start, err := caller.Start(ctx)
	if err != nil {
		fmt.Fprintln(g.Console, err)
		if ctx.Err() == nil && p.Refused != nil {
			p.Refused(m.ID)
		}
		return
	}
	transport := &http.Transport{DialContext: p.Dial}
	defer transport.CloseIdleConnections()
	runner := p.Runner()
	runner.Client = &http.Client{Transport: transport, Timeout: time.Minute}
	fmt.Fprintf(g.Console, "start: GitLab at %s\n", start.Start.GitLabURL)
	_ = runner.Guest()(ctx, firerunner.MicroVMSpec{ID: m.ID, Start: start.Start}, func(r firerunner.GuestReport) {
		if r.Kind != firerunner.ReportHello && ctx.Err() == nil { // the caller has said hello; the dead say nothing
			fmt.Fprintf(g.Console, "%s job=%d failure=%q %s\n", r.Kind, r.JobID, r.Failure, r.Message)
			caller.Report(guest.FromGuest{
				Kind: r.Kind, JobID: r.JobID, JobKey: r.JobKey, Success: r.Success, Failure: r.Failure, ExitCode: r.ExitCode, Message: r.Message,
			})
		}
	}, caller.Orders())
	_ = caller.Flush(ctx)
}
