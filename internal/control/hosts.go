package control

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// fleet is what this process knows of the hosts beside their rows.
type fleet struct {
	began time.Time // silence before we listened does not count

	mu         sync.Mutex
	leads      bool
	configured map[string]bool // by name; nil: nobody has said
	accepting  map[string]bool // those that took work when we looked last
	unanswered map[string]int  // questions in a row that a host has not answered
}

// count notes who has answered in a round of questions and who has not.
func (f *fleet) count(answers map[string]answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.unanswered
	f.unanswered = map[string]int{}
	for name, a := range answers {
		if a.silent {
			f.unanswered[name] = before[name] + 1
		}
	}
}

func (f *fleet) unansweredBy(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unanswered[name]
}

// noticeInterval is how soon a change that another process makes to the hosts is noticed.
const noticeInterval = time.Second

// SyncHosts makes the rows of hosts what the configuration says, at start and when it is read again. What is known of a
// host is kept, and so is its draining. A host that is no longer configured drains, and is removed when it is empty.
func (c *Control) SyncHosts(ctx context.Context, configured []firerunner.Host) error {
	names := map[string]bool{}
	err := c.update(ctx, func(ch *change) error {
		rows, err := ch.Hosts(ctx)
		if err != nil {
			return err
		}
		known := map[string]firerunner.Host{}
		for _, row := range rows {
			known[row.Name] = row
		}
		clear(names)
		changed := false
		for _, h := range configured {
			names[h.Name] = true
			row, there := known[h.Name]
			h.Controller = c.Controller
			if there && !c.remote(h) && c.others(row.Controller) {
				return firerunner.Errorf(firerunner.Conflict, "host %s is the machine of controller %q", h.Name, row.Controller).
					WithHint("give this machine another scheduler.host_name")
			}
			h.Draining = h.Draining || row.Draining
			if c.prober != nil && row.Driver == h.Driver {
				h.SeenAt, h.Trouble, h.Lost = row.SeenAt, row.Trouble, row.Lost
			}
			if there && reflect.DeepEqual(h, row) {
				continue
			}
			changed = true
			message := fmt.Sprintf("%d vCPUs, %d MiB, %d slots", h.VCPUs, h.MemoryMiB, h.Slots)
			if h.Draining {
				message += "; it drains"
			}
			if err := c.saveHost(ctx, ch, h, message); err != nil {
				return err
			}
		}
		for _, row := range rows {
			if names[row.Name] || row.Draining || c.others(row.Controller) || c.elsewhere(row) {
				continue // another controller's, or done
			}
			row.Draining = true
			if err := c.saveHost(ctx, ch, row, "no longer configured: it drains and is removed when it is empty"); err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace})
	})
	if err != nil {
		return fmt.Errorf("writing the configured hosts down: %w", err)
	}
	c.fleet.mu.Lock()
	c.fleet.configured = names
	c.fleet.mu.Unlock()
	if err := c.removeHosts(ctx); err != nil { // noticeHosts does it again: what is configured is written down
		c.Logger.Warn("hosts that are no longer configured are removed later", "error", err)
	}
	return nil
}

// saveHost writes a host and what became of it.
func (c *Control) saveHost(ctx context.Context, ch *change, h firerunner.Host, message string) error {
	if err := ch.SaveHost(ctx, h); err != nil {
		return err
	}
	return c.tellHost(ctx, ch, h.Name, message)
}

func (c *Control) tellHost(ctx context.Context, ch *change, name, message string) error {
	return ch.event(ctx, firerunner.Event{At: c.Now(), Kind: firerunner.EventHost, Actor: "hosts", Message: fmt.Sprintf("host %s: %s", name, message)})
}

// noticeHosts looks for what others changed (firerunner hosts drain, accept, rm), for pauses of images on hosts that are over,
// and for hosts that have become empty.
func (c *Control) noticeHosts(ctx context.Context) error {
	rows, err := c.Store.Hosts(ctx)
	if err != nil {
		return fmt.Errorf("reading the hosts: %w", err)
	}
	accepting := map[string]bool{}
	more := c.trials.over(c.Now())
	c.fleet.mu.Lock()
	for _, h := range rows {
		if !h.Draining && !h.Lost && h.Trouble == "" {
			accepting[h.Name] = true
			if back := !c.fleet.accepting[h.Name]; back {
				more = true
				if c.fleet.accepting != nil { // it was drained, or in trouble: somebody has looked at it
					c.trials.forget(func(p trialPair, _ trial) bool { return p.host == h.Name })
				}
			}
		}
	}
	c.fleet.accepting = accepting
	c.fleet.mu.Unlock()
	if more {
		err := c.update(ctx, func(ch *change) error { return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace}) })
		if err != nil {
			return err
		}
	}
	return errors.Join(c.removeHosts(ctx), c.noticeAway(ctx))
}

// removeHosts removes the hosts that are no longer configured and empty.
func (c *Control) removeHosts(ctx context.Context) error {
	c.fleet.mu.Lock()
	configured := c.fleet.configured
	c.fleet.mu.Unlock()
	if configured == nil {
		return nil
	}
	rows, err := c.Store.Hosts(ctx)
	if err != nil {
		return fmt.Errorf("reading the hosts: %w", err)
	}
	for _, h := range rows {
		if configured[h.Name] || !h.Draining || c.others(h.Controller) || c.elsewhere(h) {
			continue
		}
		err := c.update(ctx, func(ch *change) error {
			if err := ch.RemoveHost(ctx, h.Name); err != nil {
				return err
			}
			return c.tellHost(ctx, ch, h.Name, "removed: it is no longer configured, and it is empty")
		})
		switch firerunner.CodeOf(err) {
		case "", firerunner.Conflict, firerunner.NotFound: // not empty yet, or somebody was faster
		default:
			return fmt.Errorf("removing host %s: %w", h.Name, err)
		}
	}
	return nil
}

// lostHosts are the names of the hosts that are lost.
func (c *Control) lostHosts(ctx context.Context) (map[string]bool, error) {
	return lostHosts(ctx, c.Store)
}

func lostIn(ctx context.Context, rd firerunner.Reader, name string) (bool, error) {
	lost, err := lostHosts(ctx, rd)
	return lost[name], err
}

func lostHosts(ctx context.Context, rd firerunner.Reader) (map[string]bool, error) {
	rows, err := rd.Hosts(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the hosts: %w", err)
	}
	lost := map[string]bool{}
	for _, h := range rows {
		if h.Lost {
			lost[h.Name] = true
		}
	}
	return lost, nil
}

func (c *Control) hostLost(ctx context.Context, name string) (bool, error) {
	if c.prober == nil || name == "" {
		return false, nil
	}
	return lostIn(ctx, c.Store, name)
}
