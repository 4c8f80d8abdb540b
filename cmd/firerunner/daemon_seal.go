package main

import (
	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/gitlab"
)

// tokenSource is where FireRunner's own token is read from.
func tokenSource(c config.GitLab) gitlab.TokenSource {
	if c.TokenFile != "" {
		return gitlab.TokenFile(c.TokenFile)
	}
	return gitlab.StaticToken(c.Token)
}

// gitlabToken is FireRunner's own token as the configuration in force has it. It is asked before every request; and the keys
// for the tokens of jobs are derived from it, so every controller of a site has the same.
func (d *daemon) gitlabToken() (firerunner.Secret, error) {
	return tokenSource(d.inForce.Load().GitLab)()
}
