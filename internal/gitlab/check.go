package gitlab

import (
	"context"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

// Check asks for GitLab's version, and for the token's scopes and user where GitLab tells them: the token of an
// OAuth application, for one, has no entry under /personal_access_tokens/self, and one without read_user may not
// ask for its user.
func (c *Client) Check(ctx context.Context) (firerunner.GitLabCheck, error) {
	v, _, err := call(ctx, c, "version", "asking for the version", func(with ...gl.RequestOptionFunc) (*gl.Version, *gl.Response, error) {
		return c.api.Version.GetVersion(append(with, again())...)
	})
	if err != nil {
		return firerunner.GitLabCheck{}, err
	}
	if v == nil || v.Version == "" {
		return firerunner.GitLabCheck{}, firerunner.Errorf(firerunner.Unavailable, "gitlab: asking for the version: the answer names none").
			WithHint("is gitlab.url the address of a GitLab?")
	}
	check := firerunner.GitLabCheck{Version: clean(v.Version, 64)}

	token, _, err := call(ctx, c, "token", "asking for the token's scopes",
		func(with ...gl.RequestOptionFunc) (*gl.PersonalAccessToken, *gl.Response, error) {
			return c.api.PersonalAccessTokens.GetSinglePersonalAccessToken(append(with, again())...)
		})
	if err != nil && !untold(err) {
		return check, err
	}
	if token != nil {
		for _, scope := range token.Scopes[:min(len(token.Scopes), 50)] {
			check.Scopes = append(check.Scopes, clean(scope, 64))
		}
	}

	user, _, err := call(ctx, c, "user", "asking for the token's user", func(with ...gl.RequestOptionFunc) (*gl.User, *gl.Response, error) {
		return c.api.Users.CurrentUser(append(with, again())...)
	})
	if err != nil && !untold(err) {
		return check, err
	}
	if user != nil {
		check.User = clean(user.Username, mostName)
	}
	return check, nil
}

// untold reports whether GitLab refused to tell, which is not a sign of trouble once it told its version.
func untold(err error) bool {
	code := firerunner.CodeOf(err)
	return code == firerunner.NotFound || code == firerunner.Unauthorized
}
