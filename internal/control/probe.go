package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/firerunner/firerunner"
)

// probesAtOnce bounds how many hosts are asked at the same time.
const probesAtOnce = 16

// answer is what a host said.
type answer struct {
	silent  bool     // nothing, in time
	trouble string   // why it takes no work; empty: it does
	dirty   bool     // it is back, and what was left there could not be removed
	kept    []string // it is back: microVMs on it that are those of live runners
}

const noAnswer = "it does not answer"

// unansweredLeast is how many questions in a row a lost host has left unanswered: as many as fit into HostLostAfter. Time
// alone does not tell: a clock that jumps, or a store that could not be read meanwhile, makes one lost answer look like a
// long silence, and would kill what runs there.
func (c *Control) unansweredLeast() int {
	return max(3, int(c.set().HostLostAfter/max(c.HostProbeInterval, c.HostProbeTimeout)))
}

// probeHosts asks every host for a sign of life and writes down what is new. Who is silent takes no work from now on; who
// is silent for HostLostAfter is lost, with all that ran there; who comes back is cleared of what is left there before it
// takes work again.
func (c *Control) probeHosts(ctx context.Context) error {
	rows, err := c.Store.Hosts(ctx)
	if err != nil {
		return fmt.Errorf("reading the hosts: %w", err)
	}
	answers := c.askHosts(ctx, rows)
	if ctx.Err() != nil || len(answers) == 0 {
		return ctx.Err()
	}
	c.fleet.count(answers)
	var errs []error
	for _, h := range rows {
		if a, asked := answers[h.Name]; asked && h.Lost && !a.silent {
			kept, err := c.clearHost(ctx, h.Name)
			if err != nil {
				errs = append(errs, err)
				a = answer{trouble: "what was left on it is not removed yet: " + brief(err), dirty: true}
			}
			a.kept = kept
			answers[h.Name] = a
		}
	}
	err = c.update(ctx, func(ch *change) error {
		rows, err := ch.Hosts(ctx)
		if err != nil {
			return err
		}
		for _, h := range rows {
			if a, asked := answers[h.Name]; asked {
				if err := c.believeHost(ctx, ch, h, a); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return errors.Join(append(errs, err, c.loseRunners(ctx))...)
}

// askHosts asks the driver's hosts, several at once, each within HostProbeTimeout.
func (c *Control) askHosts(ctx context.Context, rows []firerunner.Host) map[string]answer {
	var mu sync.Mutex
	var all sync.WaitGroup
	answers := map[string]answer{}
	places := make(chan struct{}, probesAtOnce)
	for _, h := range rows {
		if !c.asks(h) {
			continue
		}
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(ctx, c.HostProbeTimeout)
			defer cancel()
			err := c.prober.ProbeHost(ctx, h.Name)
			a := answer{}
			switch {
			case err == nil:
			case ctx.Err() != nil, firerunner.CodeOf(err) == firerunner.Unavailable, firerunner.CodeOf(err) == firerunner.NotFound:
				a = answer{silent: true, trouble: noAnswer} // NotFound: the driver has no way to it any more
			default:
				a.trouble = withRemedy(err)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[h.Name] = a
		})
	}
	all.Wait()
	return answers
}

// believeHost writes down what a host's answer means.
func (c *Control) believeHost(ctx context.Context, ch *change, h firerunner.Host, a answer) error {
	now := c.Now()
	before := h
	for _, id := range a.kept { // whose runner was given up meanwhile: its microVM is to go first
		if r, err := ch.Runner(ctx, id); err != nil || !r.Live() {
			a.dirty, a.trouble = true, "what was left on it is not removed yet: microVM "+id
		}
	}
	h.Trouble = a.trouble
	if !a.silent {
		h.SeenAt = now
		h.Lost = h.Lost && a.dirty
	} else if c.silence(h, now) >= c.set().HostLostAfter && c.fleet.unansweredBy(h.Name) >= c.unansweredLeast() {
		h.Lost = true
	}
	var message string
	switch {
	case h.Lost && !before.Lost:
		message = fmt.Sprintf("lost: silent for %s", c.silence(h, now).Round(time.Second))
	case before.Lost && !h.Lost:
		message = "it is back, and nothing is left on it"
	case h.Trouble != before.Trouble && h.Trouble != "":
		message = "in trouble, and takes no new work: " + h.Trouble
	case h.Trouble != before.Trouble:
		message = "takes work again"
	}
	if message == "" {
		return ch.SaveHost(ctx, h)
	}
	if err := c.saveHost(ctx, ch, h, message); err != nil {
		return err
	}
	return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace})
}

// silence is how long a host has not answered while it was asked: what was before this process does not count.
func (c *Control) silence(h firerunner.Host, now time.Time) time.Duration {
	c.fleet.mu.Lock()
	began := c.fleet.began
	c.fleet.mu.Unlock()
	if began.After(h.SeenAt) {
		return now.Sub(began)
	}
	if h.SeenAt.After(now) { // the clock went back: what was asked since counts
		return time.Duration(c.fleet.unansweredBy(h.Name)) * c.HostProbeInterval
	}
	return now.Sub(h.SeenAt)
}

// clearHost removes what a host that comes back still has of runners that were given up. It returns what is left there of
// runners that live.
func (c *Control) clearHost(ctx context.Context, name string) (kept []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	var own error
	_, err = c.reapVMs(ctx, ReapOptions{}, func(vm firerunner.MicroVM) bool { return vm.Host == name })
	if firerunner.CodeOf(err) != firerunner.Unavailable { // another host that does not answer hinders this one in nothing
		own = err
	}
	vms, _ := c.Driver.List(ctx)
	owned, err := c.owned(ctx)
	if err != nil {
		return nil, err
	}
	for _, vm := range vms {
		switch {
		case vm.Host != name:
		case owned[vm.ID]:
			kept = append(kept, vm.ID)
		default:
			return nil, errors.Join(own, fmt.Errorf("microVM %s is still on host %s", vm.ID, name))
		}
	}
	if c.Peers.On != nil { // what was given up there is its own controller's to remove: see reapVMs
		others, err := c.Peers.On(ctx, name)
		if err != nil {
			return nil, errors.Join(own, fmt.Errorf("reading what the others have on host %s: %w", name, err))
		}
		kept = append(kept, others...)
	}
	return kept, own
}

// loseRunners ends what was on hosts that are lost. Who had not begun a job is rejected, so that its demand makes another
// elsewhere; who had is lost, and so is its job: it is never run twice in silence. GitLab is asked who has a job, because a
// host may be silent to us and its guests not to GitLab; where GitLab cannot say, the next round asks again.
func (c *Control) loseRunners(ctx context.Context) error {
	lost, err := c.lostHosts(ctx)
	if err != nil || len(lost) == 0 {
		return err
	}
	live, err := c.Store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return fmt.Errorf("reading live runners: %w", err)
	}
	var errs []error
	for _, r := range live {
		if !lost[r.Host] || r.State >= firerunner.Stopping {
			continue
		}
		if mayHaveJob(r) && r.Desired == firerunner.Wanted {
			if _, err := c.hasJob(ctx, r); err != nil {
				errs = append(errs, err)
				break // GitLab does not answer: hosts are asked again meanwhile
			}
		}
		errs = append(errs, c.update(ctx, func(ch *change) error { return c.loseRunner(ctx, ch, r.ID) }))
	}
	return errors.Join(errs...)
}

func (c *Control) loseRunner(ctx context.Context, ch *change, id string) error {
	r, err := ch.Runner(ctx, id)
	if err != nil || r.State >= firerunner.Stopping || r.State < firerunner.Placed {
		return err
	}
	outcome := firerunner.Rejected
	if r.JobID != 0 {
		outcome = firerunner.Lost
	}
	message := fmt.Sprintf("host %s is lost", r.Host)
	if r.State >= firerunner.Booting && c.moves(r) {
		err = c.finish(ctx, ch, &r, outcome, firerunner.ReasonHostLost, "hosts", message)
	} else { // provision may be in the middle of making it; another controller's is moved by that one
		err = c.end(ctx, ch, &r, outcome, firerunner.ReasonHostLost, "hosts", message)
	}
	if err != nil {
		return err
	}
	return ch.Enqueue(ctx, demandStep(r.Demand)) // its supply is missed now, not only once it is gone
}

// withRemedy is an error as brief has it, and what to do about it.
func withRemedy(err error) string {
	text := brief(err)
	if hint := firerunner.HintOf(err); hint != "" {
		text += " (" + brief(errors.New(hint)) + ")"
	}
	return text
}

// brief is an error as a row and an event have it: one line, not long.
func brief(err error) string {
	const most = 300
	text := strings.Map(func(r rune) rune { // a host's words go to people's terminals
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.Join(strings.Fields(err.Error()), " "))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
