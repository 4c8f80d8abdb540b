package gitlabtest

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"strconv"
	"time"
)

// deliverLoop sends one hook's events in order, one at a time, and is the only place where faults
// of deliveries strike. There is no second try: GitLab makes none either.
func (s *Server) deliverLoop(h *hook) {
	var (
		held  *delivery // by a reorder fault, until the next one was sent
		until <-chan time.Time
	)
	release := func() {
		if held != nil {
			s.send(held)
			held, until = nil, nil
		}
	}
	for {
		s.mu.Lock()
		var d *delivery
		var fault *Fault
		if len(h.queue) > 0 {
			d, h.queue = h.queue[0], h.queue[1:]
			fault = s.matchHookFault(d)
		}
		removed := h.removed
		s.mu.Unlock()
		switch {
		case removed && held != nil:
			s.settle(held.hook)
			return
		case removed:
			return
		case d == nil:
			select {
			case <-h.wake:
			case <-until:
				release()
			case <-s.ctx.Done():
				return
			}
			continue
		case fault == nil:
			s.send(d)
			release()
			continue
		}
		s.log.Info("hook fault", "action", fault.Action, "hook", h.ID, "job", d.JobID, "build_status", d.BuildStatus)
		switch fault.Action {
		case FaultDrop:
			d.Dropped = true
			s.record(d)
			s.settle(d.hook)
		case FaultDouble:
			s.attempt(d)
			s.send(d)
			release()
		case FaultReorder:
			release()
			held, until = d, time.After(cmp.Or(fault.Delay, time.Second))
		case FaultDelay:
			s.tasks.Go(func() {
				s.pause(s.ctx, fault.Delay)
				s.send(d)
			})
		}
	}
}

// send makes the one attempt and counts the delivery as done.
func (s *Server) send(d *delivery) {
	s.attempt(d)
	s.settle(d.hook)
}

func (s *Server) settle(*hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.undelivery--
	s.touch()
}

// attempt posts the event once and records what came of it.
func (s *Server) attempt(d *delivery) {
	s.mu.Lock()
	h := d.hook.Hook
	blocked := s.cfg.AutoDisableHooks && (h.Disabled || s.now().Before(h.DisabledUntil))
	s.mu.Unlock()
	if blocked && !d.Resent || s.ctx.Err() != nil {
		return
	}
	started := s.cfg.Now()
	d.At = started.UTC()
	d.Header = s.hookHeader(h, d)
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.HookTimeout)
	defer cancel()
	d.Status, d.Error, d.Answer = 0, "", ""
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(d.Body))
	if err == nil {
		for k, v := range d.Header {
			request.Header.Set(k, v)
		}
		var response *http.Response
		if response, err = s.client.Do(request); err == nil {
			answer, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
			_ = response.Body.Close()
			d.Status, d.Answer = response.StatusCode, string(answer)
		}
	}
	if err != nil {
		d.Error = err.Error()
	}
	d.Duration = s.cfg.Now().Sub(started)
	s.record(d)
}

// hookHeader are the headers of one attempt. X-Gitlab-Webhook-UUID is fresh each time and webhook-id
// is not: only the latter tells a repetition.
// Source: https://docs.gitlab.com/user/project/integrations/webhooks/#delivery-headers
func (s *Server) hookHeader(h Hook, d *delivery) map[string]string {
	timestamp := strconv.FormatInt(s.cfg.Now().Unix(), 10)
	s.mu.Lock()
	webhookUUID, eventUUID := s.uuid(), s.uuid()
	s.mu.Unlock()
	header := map[string]string{
		"Content-Type": "application/json", "User-Agent": "GitLab/" + s.cfg.Version, "X-Gitlab-Event": "Job Hook",
		"X-Gitlab-Instance": s.external, "X-Gitlab-Webhook-UUID": webhookUUID, "X-Gitlab-Event-UUID": eventUUID,
		"Idempotency-Key": d.MessageID, "webhook-id": d.MessageID, "webhook-timestamp": timestamp,
	}
	if h.Token != "" {
		header["X-Gitlab-Token"] = h.Token
	}
	if h.SigningToken != "" {
		if signature, err := Sign(h.SigningToken, d.MessageID, timestamp, d.Body); err == nil {
			header["webhook-signature"] = signature
		}
	}
	return header
}

// record keeps the attempt and counts failures: any answer but 2xx and 3xx, and none at all.
func (s *Server) record(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := d.hook
	d.ID = s.state.nextID("delivery")
	kept := d.HookDelivery
	h.history = append(h.history, kept)
	if over := len(h.history) - maxHookHistory; over > 0 {
		h.history = h.history[over:]
	}
	if !d.Dropped {
		if d.Status >= 200 && d.Status < 400 {
			h.FailuresInARow, h.backoff, h.Disabled, h.DisabledUntil = 0, 0, false, time.Time{}
		} else {
			s.countFailure(h)
		}
	}
	s.touch()
}

// countFailure: from the 4th failure in a row the hook rests, 1 minute doubling to 24 hours; the 40th
// disables it for good.
func (s *Server) countFailure(h *hook) {
	h.FailuresInARow++
	if !s.cfg.AutoDisableHooks || h.FailuresInARow < 4 {
		return
	}
	h.backoff = min(max(2*h.backoff, time.Minute), 24*time.Hour)
	h.DisabledUntil = s.now().Add(h.backoff)
	h.Disabled = h.FailuresInARow >= 40
}
