package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/gitlab"
)

func newHooksCommand(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "hooks",
		Short: "Make and repair the webhooks of projects",
		Example: `  firerunner hooks ensure --dry-run
  firerunner hooks ensure --token-file /root/gitlab-api.token`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(newHooksEnsureCommand(a))
	return command
}

func newHooksEnsureCommand(a *app) *cobra.Command {
	var o ensureOptions
	command := &cobra.Command{
		Use:   "ensure [PROJECT...]",
		Short: "See to it that each project has a webhook that leads here",
		Long: `Looks at the webhooks of the projects (those of gitlab.projects, if none is named)
and makes what is missing: a webhook at server.public_url with job events and the
secrets of the configuration. One that leads here and is not of use is repaired:
address, job events, secrets, a template of its own. One that GitLab has switched
off is tested, which switches it on again once "firerunner serve" answers. Other
webhooks, and other events of ours, are left alone.

It needs a token with the scope api whose user is a maintainer of the projects:
more than the daemon needs, so --token-file may name another one.

Twice is the same. Exit status 0: every project has its webhook. With --dry-run,
4: something would be changed. Else the first failure's: 5 the token may not, 3
there is no such project, 6 GitLab does not answer, 4 the webhook is not of use.`,
		RunE: func(command *cobra.Command, args []string) error { return a.ensureHooks(command.Context(), args, o) },
	}
	command.Flags().BoolVar(&o.dry, "dry-run", false, "say what would be done")
	command.Flags().BoolVar(&o.renew, "renew-secrets", false, "write the secrets again, though GitLab has some: it does not tell which")
	command.Flags().StringVar(&o.tokenFile, "token-file", "", "a file with the token to use, in place of gitlab.token")
	return command
}

// ensureOptions are how hooks are ensured.
type ensureOptions struct {
	dry, renew bool
	tokenFile  string
}

// ensured is what became of one project.
type ensured struct {
	Project string   `json:"project"`
	Hook    int64    `json:"hook,omitempty"`
	Action  string   `json:"action"` // ok, made, repaired, enabled, failed; with --dry-run what it would be
	Changes []string `json:"changes,omitempty"`
	Error   string   `json:"error,omitempty"`
	Remedy  string   `json:"remedy,omitempty"`

	err error
}

func (a *app) ensureHooks(ctx context.Context, projects []string, o ensureOptions) error {
	cfg, err := a.load(o.tokenFile != "") // with a token of its own, only the way to GitLab is needed
	if err != nil {
		return err
	}
	e, err := a.newEnsurer(cfg, o)
	if err != nil {
		return err
	}
	defer e.client.Close()
	if len(projects) == 0 {
		projects = cfg.GitLab.Projects
	}
	if len(projects) == 0 {
		return firerunner.Errorf(firerunner.Invalid, "no project is named").WithHint("firerunner hooks ensure group/name, or list them in gitlab.projects")
	}
	result := struct {
		OK     bool      `json:"ok"`
		DryRun bool      `json:"dry_run,omitempty"`
		URL    string    `json:"url"`
		Hooks  []ensured `json:"hooks"`
	}{true, o.dry, e.want.URL, nil}
	var failed error
	for _, project := range projects {
		one := e.project(ctx, project)
		if one.err != nil {
			one.Action, one.Error, one.Remedy = "failed", one.err.Error(), firerunner.HintOf(one.err)
			if firerunner.CodeOf(one.err) == firerunner.Unauthorized {
				one.Remedy = "webhooks need a token with the scope api, whose user is a maintainer of the project: --token-file names one"
			}
			if failed == nil {
				failed = one.err
			}
		} else if o.dry && one.Action != "ok" && failed == nil {
			failed = firerunner.Errorf(firerunner.Conflict, "%s would be changed", project)
		}
		result.Hooks = append(result.Hooks, one)
	}
	result.OK = failed == nil
	if err := a.print(result, func(w io.Writer) error { return printEnsured(w, result.Hooks, o.dry) }); err != nil {
		return err
	}
	if failed != nil {
		return silentError{failed}
	}
	return nil
}

func printEnsured(w io.Writer, all []ensured, dry bool) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, one := range all {
		action := one.Action
		if dry && action != "ok" && action != "failed" {
			action = "would be " + action
		}
		detail := strings.Join(one.Changes, ", ")
		if one.Error != "" {
			detail = one.Error
			if one.Remedy != "" {
				detail += " (" + one.Remedy + ")"
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", one.Project, action, detail)
	}
	return table.Flush()
}

// newEnsurer checks that the configuration says enough to make a webhook.
func (a *app) newEnsurer(cfg *config.Config, o ensureOptions) (*ensurer, error) {
	g := cfg.GitLab
	e := &ensurer{cfg: cfg, renew: o.renew, dry: o.dry, want: gitlab.HookSettings{Token: g.WebhookSecret, SigningToken: g.SigningToken}}
	switch {
	case g.URL == "":
		return nil, firerunner.Errorf(firerunner.Invalid, "gitlab.url is missing").WithHint("such as https://gitlab.example.com")
	case cfg.Server.PublicURL == "":
		return nil, firerunner.Errorf(firerunner.Invalid, "server.public_url is missing: GitLab cannot be told where to send").
			WithHint("set it to the address at which GitLab reaches FireRunner, such as https://firerunner.example.com")
	case g.WebhookSecret == "" && g.SigningToken == "":
		return nil, firerunner.Errorf(firerunner.Invalid, "gitlab.webhook_secret is missing, and so is gitlab.signing_token: hooks could not prove themselves").
			WithHint("openssl rand -hex 32 makes a secret")
	}
	e.want.URL = strings.TrimSuffix(cfg.Server.PublicURL, "/") + webhookPath
	token := gitlab.StaticToken(g.Token)
	if o.tokenFile != "" {
		switch info, err := os.Stat(o.tokenFile); {
		case err != nil:
			return nil, firerunner.Errorf(firerunner.Invalid, "reading the token: %w", err)
		case info.Mode().Perm()&0o077 != 0:
			return nil, firerunner.Errorf(firerunner.Invalid, "others can read the token in %s", o.tokenFile).WithHint("chmod 600 %s", o.tokenFile)
		}
		token = gitlab.TokenFile(o.tokenFile)
	}
	var err error
	e.client, err = gitlab.New(gitlab.Config{URL: g.URL, Token: token, CAFile: g.CAFile, Version: buildVersion(), Timeout: g.RequestTimeout})
	return e, err
}

// ensurer makes the webhook of one project after the other what it should be.
type ensurer struct {
	cfg        *config.Config
	client     *gitlab.Client
	want       gitlab.HookSettings
	renew, dry bool
}

// project ensures one. What it asks GitLab for may be asked twice, so it may be interrupted and done again.
func (e *ensurer) project(ctx context.Context, project string) ensured {
	one := ensured{Project: project}
	hooks, err := e.client.Hooks(ctx, project)
	if err != nil {
		one.err = err
		return one
	}
	leads := &examination{cfg: e.cfg}
	ours := slices.DeleteFunc(slices.Clone(hooks), func(h gitlab.Hook) bool { return !leads.leadsHere(h.URL) })
	if len(ours) == 0 {
		return e.create(ctx, one)
	}
	slices.SortStableFunc(ours, func(a, b gitlab.Hook) int { return len(e.lacks(a)) - len(e.lacks(b)) }) // the best is kept
	h := ours[0]
	one.Hook, one.Action, one.Changes = h.ID, "ok", e.lacks(h)
	if len(one.Changes) > 0 {
		one.Action = "repaired"
		if !e.dry {
			if h, one.err = e.client.UpdateHook(ctx, project, h.ID, e.want); one.err == nil {
				one.err = e.stillLacks(h)
			}
		}
	}
	if one.err == nil && (h.AlertStatus == "disabled" || h.AlertStatus == "temporarily_disabled") {
		one.Changes = append(one.Changes, "switched on again")
		if one.Action == "ok" {
			one.Action = "enabled"
		}
		if !e.dry {
			one.err = e.enable(ctx, project, h.ID)
		}
	}
	if one.err == nil && len(ours) > 1 {
		one.Changes = append(one.Changes, fmt.Sprintf("note: %d webhooks lead here, each job is told %d times", len(ours), len(ours)))
	}
	return one
}

func (e *ensurer) create(ctx context.Context, one ensured) ensured {
	one.Action = "made"
	if e.dry {
		return one
	}
	made, err := e.client.CreateHook(ctx, one.Project, e.want)
	if err == nil {
		err = e.stillLacks(made)
	}
	one.Hook, one.err = made.ID, err
	return one
}

// lacks is what is wrong with a webhook of ours, as far as GitLab tells.
func (e *ensurer) lacks(h gitlab.Hook) (what []string) {
	for _, c := range []struct {
		wrong bool
		what  string
	}{
		{h.URL != e.want.URL, "address"},
		{!h.JobEvents, "job events"},
		{h.Template, "template"},
		{e.want.Token != "" && (e.renew || !h.Token), "secret token"},
		{e.want.SigningToken != "" && (e.renew || !h.Signed), "signing token"},
	} {
		if c.wrong {
			what = append(what, c.what)
		}
	}
	return what
}

// stillLacks is what GitLab did not take.
func (e *ensurer) stillLacks(h gitlab.Hook) error {
	left := slices.DeleteFunc(e.lacks(h), func(what string) bool { return e.renew && strings.HasSuffix(what, " token") })
	if e.want.SigningToken != "" && !h.Signed {
		return firerunner.Errorf(firerunner.Conflict, "GitLab did not take the signing token: it signs from 19.0 on").
			WithHint("use gitlab.webhook_secret in place of gitlab.signing_token")
	}
	if len(left) > 0 {
		return firerunner.Errorf(firerunner.Conflict, "GitLab did not take: %s", strings.Join(left, ", ")).WithHint("look at Settings > Webhooks of the project")
	}
	return nil
}

// enable has GitLab test a webhook that it has switched off: one that arrives switches it on again.
func (e *ensurer) enable(ctx context.Context, project string, id int64) error {
	if err := e.client.TestHook(ctx, project, id); err != nil {
		hint := "is firerunner serve running, and does GitLab reach " + e.want.URL + "? Recent events on the webhook's page say what came of it"
		return firerunner.Errorf(firerunner.CodeOf(err), "switching it on again: %w", err).WithHint("%s", hint)
	}
	hooks, err := e.client.Hooks(ctx, project)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(hooks, func(h gitlab.Hook) bool { return h.ID == id }); i >= 0 && hooks[i].AlertStatus != "executable" {
		return firerunner.Errorf(firerunner.Conflict, "it was tested, and is %s all the same", hooks[i].AlertStatus).WithHint("look at Recent events on its page")
	}
	return nil
}
