package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlab"
)

// clockLimit is how far our clock and GitLab's may differ: a signed hook that is older than 5 minutes is refused, so
// half of that is the time to say something.
const clockLimit = 150 * time.Second

func (e *examination) client() (*gitlab.Client, error) {
	g := e.cfg.GitLab
	return gitlab.New(gitlab.Config{
		URL: g.URL, Token: gitlab.StaticToken(g.Token), CAFile: g.CAFile, Version: buildVersion(), Timeout: g.RequestTimeout,
	})
}

// gitlab asks for a sign of life with the token, and what the token may do.
func (e *examination) gitlab(ctx context.Context) []finding {
	if e.cfg.GitLab.URL == "" || e.cfg.GitLab.Token == "" {
		return []finding{{Verdict: warn, Found: "not asked, because there is no address or no token", Remedy: "see the check of the configuration"}}
	}
	client, err := e.client()
	if err != nil {
		return []finding{failing(err, "correct the keys below gitlab")}
	}
	defer client.Close()
	answer, err := client.Check(ctx)
	if err != nil {
		return []finding{failing(err, "is gitlab.url right, and does a firewall or HTTPS_PROXY stand between?")}
	}
	found := []finding{{Verdict: good, Found: fmt.Sprintf("GitLab %s at %s", answer.Version, e.cfg.GitLab.URL)}}
	if u, err := url.Parse(e.cfg.GitLab.URL); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		found = append(found, finding{Verdict: warn, Found: "the token and all that jobs say cross the network in clear", Remedy: "use https in gitlab.url"})
	}
	found = append(found, scopes(answer))
	for _, project := range e.cfg.GitLab.Projects {
		if _, err := strconv.ParseInt(project, 10, 64); err == nil {
			continue // an id needs no look-up
		}
		if _, err := client.ProjectID(ctx, project); err != nil {
			found = append(found, failing(err, "correct gitlab.projects, or make the token's user a member"))
		}
	}
	return found
}

// scopes compares the token's scopes with those that FireRunner's calls need:
// https://docs.gitlab.com/security/tokens/#token-scopes
func scopes(answer firerunner.GitLabCheck) finding {
	who := "the token"
	if answer.User != "" {
		who = "the token of " + answer.User
	}
	if answer.Scopes == nil {
		return finding{Verdict: warn, Found: "GitLab does not say the scopes of " + who, Remedy: "it needs create_runner, manage_runner and read_api"}
	}
	has := fmt.Sprintf("%s has %s", who, strings.Join(answer.Scopes, ", "))
	if slices.Contains(answer.Scopes, "api") {
		return finding{Verdict: good, Found: has}
	}
	var missing []string
	for _, scope := range []string{"create_runner", "manage_runner", "read_api"} {
		if !slices.Contains(answer.Scopes, scope) {
			missing = append(missing, scope)
		}
	}
	if len(missing) > 0 {
		return finding{Verdict: fail, Found: fmt.Sprintf("%s, but not %s", has, strings.Join(missing, ", ")), Remedy: "make a token with create_runner, manage_runner and read_api"}
	}
	return finding{Verdict: good, Found: has}
}

// clock compares our clock with the Date of GitLab's answers. Nothing is sent but a request for the front page, so
// it needs no token.
func (e *examination) clock(ctx context.Context) []finding {
	if e.cfg.GitLab.URL == "" {
		return nil
	}
	transport, err := e.app.transport(e.cfg.GitLab.CAFile)
	if err != nil {
		return []finding{failing(err, "correct gitlab.ca_file")}
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, e.cfg.GitLab.URL, nil)
	if err != nil {
		return []finding{{Verdict: fail, Found: "gitlab.url is not a web address"}}
	}
	began := time.Now()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return []finding{{Verdict: warn, Found: fmt.Sprintf("GitLab's clock is not known: %v", err)}}
	}
	answer.Body.Close()
	theirs, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return []finding{{Verdict: warn, Found: "GitLab's clock is not known: its answer has no date"}}
	}
	// The date is that of a moment between request and answer, cut to a whole second.
	ours := began.Add(time.Since(began) / 2)
	skew := ours.Sub(theirs.Add(500 * time.Millisecond)).Round(time.Second)
	if skew.Abs() > clockLimit {
		return []finding{{Verdict: fail, Found: fmt.Sprintf("our clock and GitLab's differ by %v", skew), Remedy: "set the clock (systemd-timesyncd, chrony): signed hooks are refused beyond 5 minutes"}}
	}
	return []finding{{Verdict: good, Found: fmt.Sprintf("as GitLab's, to %v", max(skew.Abs(), time.Second))}}
}

// webhook looks whether hooks can arrive, as far as that can be seen from here.
func (e *examination) webhook(ctx context.Context) []finding {
	s := e.cfg.Server
	address := net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	found := []finding{e.port(ctx, address)}
	if s.PublicURL == "" {
		return append(found, finding{
			Verdict: good, Found: "whether GitLab reaches this address cannot be seen from here; send a test from the webhook's page in GitLab",
		})
	}
	alive := strings.TrimSuffix(s.PublicURL, "/") + "/healthz"
	if err := e.alive(ctx, alive); err != nil {
		return append(found, finding{
			Verdict: warn, Found: fmt.Sprintf("%s does not answer from here: %v", alive, err),
			Remedy: "is FireRunner running, and does a proxy pass server.public_url on to " + address + "?",
		})
	}
	return append(found, finding{Verdict: good, Found: alive + " answers"})
}

// port says who listens at our address: nobody (we could), FireRunner, or somebody else.
func (e *examination) port(ctx context.Context, address string) finding {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err == nil {
		listener.Close()
		return finding{Verdict: good, Found: address + " is free; FireRunner is not running"}
	}
	host, port, _ := net.SplitHostPort(address)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	if aliveErr := e.alive(ctx, "http://"+net.JoinHostPort(host, port)+"/healthz"); aliveErr == nil {
		return finding{Verdict: good, Found: "FireRunner listens on " + address}
	}
	return finding{Verdict: fail, Found: err.Error(), Remedy: "another program has the port: choose another server.port, or end it"}
}

// alive asks for a sign of life of FireRunner itself.
func (e *examination) alive(ctx context.Context, address string) error {
	transport, err := e.app.transport("")
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", answer.Status)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
