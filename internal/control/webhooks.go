package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// WebhookTrouble is why a project's webhook does not do its work. The zero value: it does.
type WebhookTrouble struct {
	Word   firerunner.Reason // one of few; a change of it is an event
	What   string            // in words
	Remedy string
}

// webhooks is what this process knows of projects' webhooks. GitLab switches one off that failed too often, and then says
// nothing more: jobs wait for the sweep, and nobody knows why.
type webhooks struct {
	mu       sync.Mutex
	loaded   bool
	words    map[int64]firerunner.Reason // of those in trouble, as the event log has it
	lookedAt map[int64]time.Time
	barred   map[int64]time.Time // since when GitLab does not let us look
}

// barredLooks is how long the webhooks of a project are left alone that GitLab does not let us see.
const barredLooks = 24 * time.Hour

func (w *webhooks) trouble() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.words)
}

// lookAtWebhooks looks at the webhooks of active projects within the sweep's budget. Each change is one event: what was
// said is read from the event log, so a restart does not say it again.
func (c *Control) lookAtWebhooks(ctx context.Context) error {
	w := &c.webhooks
	if err := w.load(ctx, c.Store); err != nil {
		return err
	}
	all, err := c.known(ctx)
	if err != nil {
		return err
	}
	end := c.sweeper.budget.clock().Add(c.WebhookInterval)
	for _, id := range w.due(all, c.Now()) {
		if !c.sweeper.budget.wait(ctx, end) {
			return nil
		}
		callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
		hooks, err := c.watcher.Webhooks(callCtx, id)
		cancel()
		switch firerunner.CodeOf(err) {
		case "":
		case firerunner.Unauthorized, firerunner.NotFound:
			if w.bar(id, c.Now()) {
				c.Logger.Info("webhooks cannot be looked at: the token may not list them; the sweep finds what they lose",
					"project", id, "error", err, "hint", `"firerunner hooks ensure --token-file" looks with another token`)
			}
			continue
		default:
			return fmt.Errorf("looking at the webhooks of project %d: %w", id, err)
		}
		if err := c.judgeWebhooks(ctx, id, c.WebhookTrouble(hooks)); err != nil {
			return err
		}
	}
	return nil
}

// load reads what was said before.
func (w *webhooks) load(ctx context.Context, store firerunner.Reader) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loaded {
		return nil
	}
	said, err := store.Events(ctx, firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventWebhook}})
	if err != nil {
		return fmt.Errorf("reading what was said of webhooks: %w", err)
	}
	w.words, w.lookedAt, w.barred = map[int64]firerunner.Reason{}, map[int64]time.Time{}, map[int64]time.Time{}
	for _, e := range said {
		w.words[e.ProjectID] = e.Reason
		if e.Reason == "" {
			delete(w.words, e.ProjectID)
		}
	}
	w.loaded = true
	return nil
}

// due returns the active projects, and those that were in trouble when they were; who was looked at longest ago comes first.
func (w *webhooks) due(all []swept, now time.Time) []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var due []int64
	for _, p := range all {
		_, troubled := w.words[p.id]
		since, barred := w.barred[p.id]
		if (p.active || troubled) && !(barred && now.Sub(since) < barredLooks) {
			due = append(due, p.id)
		}
	}
	slices.SortFunc(due, func(a, b int64) int { return cmp.Or(w.lookedAt[a].Compare(w.lookedAt[b]), cmp.Compare(a, b)) })
	return due
}

// bar notes that GitLab does not let us look. It reports whether that is the first time for any project: it is said once.
func (w *webhooks) bar(id int64, now time.Time) (first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first = len(w.barred) == 0
	w.barred[id], w.lookedAt[id] = now, now
	return first
}

// judgeWebhooks says what is new of a project's webhooks.
func (c *Control) judgeWebhooks(ctx context.Context, id int64, t WebhookTrouble) error {
	w := &c.webhooks
	w.mu.Lock()
	w.lookedAt[id] = c.Now()
	delete(w.barred, id)
	same := w.words[id] == t.Word
	w.mu.Unlock()
	if same {
		return nil
	}
	message := "it does its work again"
	if t.Word != "" {
		message = t.What
		if t.Remedy != "" {
			message += " (" + t.Remedy + ")"
		}
	}
	err := c.update(ctx, func(ch *change) error {
		return ch.event(ctx, firerunner.Event{
			At: c.Now(), Kind: firerunner.EventWebhook, ProjectID: id, Actor: "webhooks", Reason: t.Word, Message: message,
		})
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.Word == "" {
		delete(w.words, id)
	} else {
		w.words[id] = t.Word
	}
	return nil
}
