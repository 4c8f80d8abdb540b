package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/gitlab"
)

// webhookPath is where serve takes GitLab's hooks.
const webhookPath = "/webhook"

// hooks looks from GitLab's side: has each configured project a webhook that leads here, and does GitLab still send
// it? It switches off a hook that failed too often, and then says nothing more.
func (e *examination) hooks(ctx context.Context) []finding {
	g := e.cfg.GitLab
	if g.URL == "" || g.Token == "" {
		return nil // the check of GitLab has said so
	}
	if len(g.Projects) == 0 {
		return []finding{{Verdict: good, Found: "not looked for: gitlab.projects names no project whose webhooks could be listed"}}
	}
	client, err := e.client()
	if err != nil {
		return nil
	}
	defer client.Close()
	var found []finding
	for _, project := range g.Projects {
		hooks, err := client.Hooks(ctx, project)
		switch code := firerunner.CodeOf(err); {
		case err == nil:
			found = append(found, e.ours(project, hooks)...)
		case code == firerunner.Unauthorized || code == firerunner.NotFound:
			found = append(found, finding{
				Verdict: warn, Found: fmt.Sprintf("%s: its webhooks are not known: the token's user may not list them", project),
				Remedy: "make that user a maintainer, or look below Settings > Webhooks whether one leads to " + e.hookURL(),
			})
		default:
			found = append(found, finding{Verdict: warn, Found: fmt.Sprintf("%s: its webhooks are not known: %v", project, err), Remedy: firerunner.HintOf(err)})
		}
	}
	return found
}

// ours looks at those of a project's webhooks that lead to this FireRunner, as far as their address tells.
func (e *examination) ours(project string, hooks []gitlab.Hook) []finding {
	hooks = slices.DeleteFunc(hooks, func(h gitlab.Hook) bool { return !e.leadsHere(h.URL) })
	if len(hooks) == 0 {
		return []finding{{
			Verdict: warn, Found: fmt.Sprintf("%s: no webhook leads to %s; its jobs wait for the sweep, up to %v", project, e.hookURL(), e.cfg.Sweep.Interval),
			Remedy: "add one below Settings > Webhooks, with job events only (a webhook of its group, which cannot be seen here, does as well)",
		}}
	}
	var found []finding
	for _, h := range hooks {
		f := finding{Verdict: good, Found: fmt.Sprintf("%s: webhook %d leads here", project, h.ID)}
		if flaw := e.flaw(h); flaw.word != "" {
			f = finding{Verdict: flaw.verdict, Found: fmt.Sprintf("%s: webhook %d %s", project, h.ID, flaw.what), Remedy: flaw.remedy}
		}
		found = append(found, f)
	}
	return found
}

// flaw is what is wrong with a webhook that leads here; no word: nothing is.
type flaw struct {
	word         firerunner.Reason
	verdict      verdict
	what, remedy string
}

// flaw looks at one. The first that holds is told: it hides the others.
func (e *examination) flaw(h gitlab.Hook) flaw {
	switch {
	case !h.JobEvents:
		return flaw{"no_job_events", fail, "leads here, but without job events", "tick Job events on its page, and nothing else"}
	case h.AlertStatus == "disabled":
		return flaw{"disabled", fail, "was switched off by GitLab, because it failed too often", "look at Recent events on its page, correct what they say, and send a test from there"}
	case h.AlertStatus == "temporarily_disabled":
		return flaw{
			"temporarily_disabled", fail, "is switched off by GitLab until " + h.DisabledUntil.UTC().Format(time.RFC3339) + ", because it failed",
			"look at Recent events on its page, correct what they say, and send a test from there",
		}
	case h.Template:
		return flaw{"template", fail, "has a template of its own for the body", "leave the custom webhook template empty"}
	case e.cfg.GitLab.SigningToken != "" && !h.Signed:
		return flaw{"unsigned", warn, "seems not to sign what it sends, and gitlab.signing_token refuses what is not signed", "give it the signing token (GitLab 19.0 or newer)"}
	case e.cfg.GitLab.SigningToken == "" && e.cfg.GitLab.WebhookSecret != "" && !h.Token:
		return flaw{"no_token", warn, "seems to send no secret token, and gitlab.webhook_secret asks for one", "give it the secret token"}
	}
	return flaw{}
}

// webhookTrouble is how the daemon judges a project's webhooks: one that does its work is enough. What only seems to be
// wrong is left to doctor, which somebody asked.
func webhookTrouble(cfg *config.Config) func([]firerunner.Webhook) control.WebhookTrouble {
	e := &examination{cfg: cfg}
	return func(all []firerunner.Webhook) control.WebhookTrouble {
		trouble := control.WebhookTrouble{
			Word: "missing", What: "no webhook of the project leads to " + e.hookURL() + "; its jobs wait for the sweep",
			Remedy: `"firerunner hooks ensure" makes one; a webhook of its group, which cannot be seen here, does as well`,
		}
		for _, h := range all {
			if !e.leadsHere(h.URL) {
				continue
			}
			flaw := e.flaw(h)
			if flaw.word == "" || flaw.verdict != fail {
				return control.WebhookTrouble{}
			}
			trouble = control.WebhookTrouble{
				Word: flaw.word, What: fmt.Sprintf("webhook %d %s", h.ID, flaw.what), Remedy: flaw.remedy + `, or run "firerunner hooks ensure"`,
			}
		}
		return trouble
	}
}

// hookURL is where hooks should lead, for people.
func (e *examination) hookURL() string {
	if e.cfg.Server.PublicURL != "" {
		return strings.TrimSuffix(e.cfg.Server.PublicURL, "/") + webhookPath
	}
	return "FireRunner's " + webhookPath
}

// leadsHere compares a hook's address with ours, as far as we know it.
func (e *examination) leadsHere(address string) bool {
	theirs, err := url.Parse(address)
	if err != nil || strings.TrimSuffix(theirs.Path, "/") == "" {
		return false
	}
	if e.cfg.Server.PublicURL == "" {
		return strings.HasSuffix(theirs.Path, webhookPath)
	}
	ours, err := url.Parse(e.hookURL())
	return err == nil && strings.EqualFold(ours.Host, theirs.Host) && ours.Path == theirs.Path
}
