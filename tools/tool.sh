#!/usr/bin/env bash
# Builds a tool of tools/go.mod once and prints where it is:
#
#   tool.sh golangci-lint
#
# The binary is kept under the cache by the versions of everything in it. "go tool -modfile=tools/go.mod NAME" runs the
# same tool; this saves linking it each time.
set -euo pipefail
name=${1:?usage: tool.sh NAME}
cd "$(dirname "$0")"
export GOWORK=off CGO_ENABLED=0 GOFLAGS=-mod=readonly
package=$(sed -n "s|^[[:space:]]*\(tool[[:space:]]\+\)\?\([^ ]*/$name\)\$|\2|p" go.mod | head -n 1)
[ -n "$package" ] || { echo "tool.sh: $name is not in tools/go.mod" >&2; exit 2; }
key=$({ go version; cat go.mod go.sum; } | sha256sum | cut -c1-32)
kept=${FIRERUNNER_CACHE:-$HOME/.cache/firerunner}/tools/$key
if [ ! -x "$kept/$name" ]; then
	echo "tool.sh: building $name (once)" >&2
	mkdir -p "$kept"
	work=$(mktemp -d "$kept/build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	go build -ldflags '-s -w' -o "$work/$name" "$package"
	mv -f "$work/$name" "$kept/$name"
fi
echo "$kept/$name"
