#!/bin/sh
# Builds the test runner (see README.md) and puts it at OUT:
#
#   build.sh OUT
#
# The binary is kept under ${FIRERUNNER_CACHE:-$HOME/.cache/firerunner}, under a
# key made from its sources, the Go version and the target, so a second call builds nothing.
# Two calls at once are safe: each builds into a folder of its own and the
# rename is atomic. The last line printed is OUT's absolute path.
set -eu

[ $# -eq 1 ] || { echo "usage: build.sh OUT" >&2; exit 2; }
mkdir -p "$(dirname "$1")"
out=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
[ ! -d "$out" ] || { echo "build.sh: $out is a folder; name the file to write" >&2; exit 2; }

cd "$(dirname "$0")"
# No go.work and no flags of the caller: only what the key holds may count.
export CGO_ENABLED=0 GOWORK=off GOFLAGS= LC_ALL=C

key=$({
	go version
	go env GOOS GOARCH
	find . -type f \( -name '*.go' -o -name go.mod -o -name go.sum -o -name build.sh \) |
		sort | xargs sha256sum
} | sha256sum | cut -c1-64)
kept=${FIRERUNNER_CACHE:-$HOME/.cache/firerunner}/gitlab-runner/$key

if [ ! -x "$kept/gitlab-runner" ]; then
	mkdir -p "$kept"
	work=$(mktemp -d "$kept/build.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	common=gitlab.com/gitlab-org/gitlab-runner/common
	go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w \
		-X $common.VERSION=19.4.0 -X $common.REVISION=fc1f1862 -X $common.BRANCH=unpatched" \
		-o "$work/gitlab-runner" .
	mv -f "$work/gitlab-runner" "$kept/gitlab-runner"
fi

if [ "$out" != "$kept/gitlab-runner" ]; then
	copy=$(mktemp "$out.XXXXXX")
	trap 'rm -f "$copy"; [ -z "${work:-}" ] || rm -rf "$work"' EXIT
	cp --reflink=auto "$kept/gitlab-runner" "$copy"
	chmod 755 "$copy"
	mv -f "$copy" "$out"
fi
echo "$out"
