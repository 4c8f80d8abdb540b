package image

import (
	"context"
	"strings"

	"github.com/firerunner/firerunner"
)

// aptScript installs packages in a foreign system, with its own apt sources and keys unless there are given ones.
// Services are not started: there is nothing to start them. https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
func aptScript(sources string, packages []string) []byte {
	options := ""
	if sources != "" {
		options = "-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=/.firerunner/apt"
	}
	var b strings.Builder
	b.WriteString("set -e\n")
	if sources != "" {
		b.WriteString("mkdir /.firerunner/apt\ncat >/.firerunner/apt/given.sources <<'END-OF-SOURCES'\n" + sources + "END-OF-SOURCES\n")
	}
	b.WriteString(`policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f $policy' EXIT
fi
apt-get -q -o Acquire::Retries=3 ` + options + ` update
apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o APT::Install-Recommends=false ` + options + ` install --`)
	for _, p := range packages {
		b.WriteString(" " + quote(p))
	}
	b.WriteString(`
apt-get clean
rm -rf /var/lib/apt/lists/*
`)
	return []byte(b.String())
}

// foreignSources are the recipe's sources for a foreign system, in the deb822 style; nothing if it has none.
func foreignSources(lines []string) (string, error) {
	all := parseOneLine(strings.Join(lines, "\n"))
	if len(all) != len(lines) {
		return "", firerunner.Errorf(firerunner.Invalid, "read the mirrors: with a container image each has to be an apt source line").
			WithHint("such as: deb MIRROR-URL SUITE main")
	}
	return renderSources(all)
}

// aptInstall installs packages in a foreign system. That needs the network: package tools get this machine's, with its
// proxies, and nothing else of it.
func (r *run) aptInstall(ctx context.Context, t *tree, contents *spool, packages []string) (*tree, error) {
	sources, err := foreignSources(r.recipe.FromMirrors)
	if err != nil {
		return nil, err
	}
	err = r.step("packages", func() (string, error) {
		changed, err := r.sandbox(ctx, t, contents, task{step: "packages", scripts: [][]byte{aptScript(sources, packages)}, network: true})
		if err != nil {
			return "", firerunner.Errorf(firerunner.CodeOf(err), "install %s: %w", strings.Join(packages, ", "), err).
				WithHint("the base image's own apt sources are used; --mirror names others")
		}
		t = changed
		return strings.Join(packages, ", "), nil
	})
	return t, err
}
