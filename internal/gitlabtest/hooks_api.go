package gitlabtest

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

const maxProjectHooks = 100

// hook finds the project and hook in the path. Hooks are for maintainers.
// Source: https://docs.gitlab.com/api/project_webhooks/
func (c *call) hook() (*project, *hook, error) {
	p, err := c.project(Maintainer)
	if err != nil {
		return nil, nil, err
	}
	id, err := strconv.ParseInt(c.r.PathValue("hook"), 10, 64)
	if err != nil {
		return nil, nil, apiParam("hook_id is invalid")
	}
	h := c.s.state.hooks[id]
	if h == nil || h.ProjectID != p.ID {
		return nil, nil, notFound("")
	}
	return p, h, nil
}

func (c *call) listHooks() (any, error) {
	p, err := c.project(Maintainer)
	if err != nil {
		return nil, err
	}
	return pageViews(c, p.hooks, true, c.s.hookView)
}

func (c *call) getHook() (any, error) {
	_, h, err := c.hook()
	if err != nil {
		return nil, err
	}
	return c.s.hookView(h), nil
}

func (c *call) createHook() (any, error) {
	p, err := c.project(Maintainer)
	if err != nil {
		return nil, err
	}
	if c.params.text("url") == "" {
		return nil, apiParam("url is missing")
	}
	if len(p.hooks) >= maxProjectHooks {
		return nil, apiInvalid(http.StatusUnprocessableEntity, "base", "Maximum number of project hooks (100) exceeded")
	}
	in := Hook{PushEvents: true} // GitLab's default
	if err := c.readHook(&in); err != nil {
		return nil, err
	}
	return c.s.hookView(c.s.addHook(p, in)), nil
}

func (c *call) updateHook() (any, error) {
	_, h, err := c.hook()
	if err != nil {
		return nil, err
	}
	changed := h.Hook
	if err := c.readHook(&changed); err != nil {
		return nil, err
	}
	// A token is for the address that it was given for. Source, in GitLab: app/models/hooks/web_hook.rb, reset_token
	if changed.URL != h.URL && !c.params.has("token") {
		changed.Token = ""
	}
	h.Hook = changed
	c.s.touch()
	return c.s.hookView(h), nil
}

func (c *call) deleteHook() (any, error) {
	p, h, err := c.hook()
	if err != nil {
		return nil, err
	}
	c.s.removeHook(p, h)
	return c.noContent()
}

func (c *call) readHook(h *Hook) error {
	for key, into := range map[string]*string{
		"url": &h.URL, "token": &h.Token, "signing_token": &h.SigningToken, "name": &h.Name, "description": &h.Description,
		"custom_webhook_template": &h.Template,
	} {
		if c.params.has(key) {
			*into = c.params.text(key)
		}
	}
	if u, err := url.Parse(h.URL); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return apiInvalid(http.StatusUnprocessableEntity, "url", "is blocked: Only allowed schemes are http, https")
	}
	if h.SigningToken != "" {
		if _, err := signingKey(h.SigningToken); err != nil {
			return apiInvalid(http.StatusUnprocessableEntity, "signing_token", "is invalid")
		}
	}
	if c.s.cfg.IgnoreSigningTokens {
		h.SigningToken = ""
	}
	if err := c.params.flag("push_events", &h.PushEvents); err != nil {
		return err
	}
	return c.params.flag("job_events", &h.JobEvents)
}

// hookView never holds either token.
func (s *Server) hookView(h *hook) map[string]any {
	alert := "executable"
	if s.cfg.AutoDisableHooks {
		switch {
		case h.Disabled:
			alert = "disabled"
		case s.now().Before(h.DisabledUntil):
			alert = "temporarily_disabled"
		}
	}
	v := map[string]any{
		"id": h.ID, "project_id": h.ProjectID, "url": h.URL, "name": h.Name, "description": h.Description, "created_at": apiTime(h.CreatedAt),
		"job_events": h.JobEvents, "enable_ssl_verification": true, "alert_status": alert, "disabled_until": apiTime(h.DisabledUntil),
		"token_present": h.Token != "", "signing_token_present": h.SigningToken != "", "url_variables": []any{}, "custom_headers": []any{},
		"repository_update_events": false, "push_events_branch_filter": "", "branch_filter_strategy": "wildcard", "custom_webhook_template": h.Template,
	}
	for _, other := range []string{
		"tag_push", "merge_requests", "issues", "confidential_issues", "note", "confidential_note", "pipeline", "wiki_page",
		"deployment", "releases", "feature_flag", "milestone", "emoji", "resource_access_token", "vulnerability",
	} {
		v[other+"_events"] = false
	}
	v["push_events"] = h.PushEvents
	return v
}

// listHookEvents is the delivery history, newest first.
func (c *call) listHookEvents() (any, error) {
	_, h, err := c.hook()
	if err != nil {
		return nil, err
	}
	all := slices.Clone(h.history)
	slices.Reverse(all)
	return pageViews(c, all, false, func(d HookDelivery) map[string]any {
		status := any("internal error")
		if d.Status != 0 {
			status = strconv.Itoa(d.Status)
		}
		header := map[string]string{}
		for k, v := range d.Header {
			header[k] = v
			if k == "X-Gitlab-Token" || k == "webhook-signature" {
				header[k] = "[REDACTED]"
			}
		}
		return map[string]any{
			"id": d.ID, "url": h.URL, "trigger": "job_hooks", "request_headers": header, "request_data": rawJSON(d.Body),
			"response_headers": map[string]string{}, "response_body": d.Answer, "execution_duration": d.Duration.Seconds(), "response_status": status,
		}
	})
}

// resendHookEvent sends an event again, under the same webhook-id.
func (s *Server) resendHookEvent(w http.ResponseWriter, r *http.Request) error {
	return s.sendNow(w, r, false, func(h *hook) (*delivery, error) {
		id, err := strconv.ParseInt(r.PathValue("event"), 10, 64)
		if err != nil {
			return nil, apiParam("hook_event_id is invalid")
		}
		i := slices.IndexFunc(h.history, func(d HookDelivery) bool { return d.ID == id })
		if i < 0 {
			return nil, notFound("")
		}
		return &delivery{hook: h, HookDelivery: h.history[i]}, nil
	})
}

// testHook sends the event of the project's newest job.
func (s *Server) testHook(w http.ResponseWriter, r *http.Request) error {
	return s.sendNow(w, r, true, func(h *hook) (*delivery, error) {
		if r.PathValue("trigger") != "job_events" {
			return nil, apiParam("trigger does not have a valid value")
		}
		for _, j := range slices.Backward(s.state.jobOrder) {
			if j.ProjectID == h.ProjectID {
				return &delivery{hook: h, HookDelivery: HookDelivery{
					HookID: h.ID, ProjectID: j.ProjectID, JobID: j.ID, BuildStatus: j.Status, MessageID: s.uuid(), Body: s.jobEvent(j),
				}}, nil
			}
		}
		return nil, apiMessage(http.StatusUnprocessableEntity, "Ensure the project has CI jobs.")
	})
}

// sendNow delivers in the foreground what choose picks, at most so often a minute. For a test, only a receiver that is
// content is good enough.
func (s *Server) sendNow(w http.ResponseWriter, r *http.Request, test bool, choose func(*hook) (*delivery, error)) error {
	c := &call{s: s, w: w, r: r, params: params{}}
	chosen, err := c.run(scopeWrite, func(c *call) (any, error) {
		_, h, err := c.hook()
		if err != nil {
			return nil, err
		}
		now := s.now()
		h.resends = slices.DeleteFunc(h.resends, func(at time.Time) bool { return now.Sub(at) >= time.Minute })
		if s.cfg.HookResendsPerMinute >= 0 && len(h.resends) >= s.cfg.HookResendsPerMinute {
			return nil, apiMessage(http.StatusTooManyRequests,
				map[string]any{"error": "This endpoint has been requested too many times. Try again later."})
		}
		d, err := choose(h)
		if err != nil {
			return nil, err
		}
		h.resends = append(h.resends, now)
		d.Resent, d.Dropped = true, false
		return d, nil
	})
	if err != nil {
		return err
	}
	d := chosen.(*delivery)
	s.attempt(d)
	if d.Status == 0 {
		return apiMessage(http.StatusUnprocessableEntity, d.Error)
	}
	if test && d.Status/100 != 2 { // source, in GitLab: lib/api/hooks/trigger_test.rb
		return apiMessage(http.StatusUnprocessableEntity, d.Answer)
	}
	writeJSON(w, http.StatusCreated, map[string]any{"message": "201 Created", "response_status": d.Status})
	return nil
}
