package gitlabtest

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Role is a member's access level in a project.
// Source: https://docs.gitlab.com/api/access_requests/#valid-access-levels
type Role int

// The roles that the emulator tells apart.
const (
	Reporter   Role = 20
	Developer  Role = 30
	Maintainer Role = 40
	Owner      Role = 50
)

// TokenOptions describes a personal access token and the user behind it.
type TokenOptions struct {
	Scopes []string
	// Admin makes the user an administrator: /runners/all, instance runners, every project.
	Admin bool
	// Role is what the user is in its projects; zero is Owner.
	Role Role
	// Projects are the projects that the user is a member of; nil is all. Others answer 404.
	Projects []int64
	// ExpiresAt is when the token stops working; zero is never.
	ExpiresAt time.Time
}

type accessToken struct {
	TokenOptions
	id        int64
	secret    string
	createdAt time.Time
	usedAt    time.Time
	revoked   bool
}

// CreateToken makes a personal access token of an administrator.
func (s *Server) CreateToken(scopes ...string) string {
	return s.CreateTokenWith(TokenOptions{Scopes: scopes, Admin: true})
}

// CreateTokenWith makes a personal access token.
func (s *Server) CreateTokenWith(o TokenOptions) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.Role == 0 {
		o.Role = Owner
	}
	t := &accessToken{TokenOptions: o, id: s.state.nextID("token"), secret: s.secret("glpat-"), createdAt: s.now()}
	s.state.tokens[t.secret] = t
	return t.secret
}

// RevokeToken makes a token answer 401 from now on.
func (s *Server) RevokeToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.state.tokens[token]; t != nil {
		t.revoked = true
	}
}

// tokenOf reads the access token of a REST call.
// Source: https://docs.gitlab.com/api/rest/authentication/
func tokenOf(r *http.Request) string {
	if t := r.Header.Get("PRIVATE-TOKEN"); t != "" {
		return t
	}
	if t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return t
	}
	return r.URL.Query().Get("private_token")
}

// authenticate finds the caller and holds it to one of the scopes; no scopes means any will do.
// The caller holds mu.
func (s *Server) authenticate(r *http.Request, scopes []string) (*accessToken, error) {
	t := s.state.tokens[tokenOf(r)]
	switch {
	case t == nil:
		return nil, apiMessage(http.StatusUnauthorized, "401 Unauthorized")
	case t.revoked:
		return nil, oauthError(http.StatusUnauthorized, "invalid_token",
			"Token was revoked. You have to re-authorize from the user.", nil)
	case !t.ExpiresAt.IsZero() && !s.now().Before(t.ExpiresAt):
		return nil, oauthError(http.StatusUnauthorized, "invalid_token",
			"Token is expired. You can either do re-authorization or token refresh.", nil)
	case len(scopes) > 0 && !slices.ContainsFunc(t.Scopes, func(have string) bool { return slices.Contains(scopes, have) }):
		return nil, oauthError(http.StatusForbidden, "insufficient_scope",
			"The request requires higher privileges than provided by the access token.", scopes)
	}
	t.usedAt = s.now()
	return t, nil
}

// role is the token's access level in a project; zero is no member.
func (t *accessToken) role(projectID int64) Role {
	switch {
	case t.Admin:
		return Owner
	case t.Projects == nil || slices.Contains(t.Projects, projectID):
		return t.Role
	}
	return 0
}

func (c *call) tokenSelf() (any, error) {
	t := c.token
	return map[string]any{
		"id": t.id, "name": fmt.Sprintf("emulated %d", t.id), "revoked": t.revoked, "active": true,
		"scopes": t.Scopes, "user_id": userID, "created_at": apiTime(t.createdAt),
		"last_used_at": apiTime(t.usedAt), "expires_at": apiDate(t.ExpiresAt),
	}, nil
}

func (c *call) user() (any, error) {
	return map[string]any{
		"id": userID, "username": userName, "name": userFullName, "state": "active", "locked": false,
		"avatar_url": nil, "web_url": c.s.external + "/" + userName, "is_admin": c.token.Admin,
		"email": userEmail, "bot": false,
	}, nil
}

func (c *call) version() (any, error) {
	return map[string]any{"version": c.s.cfg.Version, "revision": "e0f1a2b3c4d"}, nil
}

func (s *Server) randomBytes(n int) []byte {
	b := make([]byte, n)
	// crypto/rand never fails; a test's own reader must not either.
	if _, err := io.ReadFull(s.cfg.Rand, b); err != nil {
		panic(fmt.Sprintf("gitlabtest: Config.Rand: %v", err))
	}
	return b
}
