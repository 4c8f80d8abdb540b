#!/usr/bin/env bash
# Installs the Debian packages that are missing, and only those:
#
#   deps.sh run     what microVMs and the image need
#   deps.sh test    what the tests need besides: e2fsck, a C compiler for the race detector, namespaces and rules for the firewall, and
#                   PostgreSQL, whose server tests start by themselves, and systemd, which reads the units
#
# Where all of them are there, it does not touch the network and needs no rights.
set -euo pipefail

run=(
	ca-certificates  # to reach GitLab and the mirrors
	git              # the demo serves a repository
	mmdebstrap       # makes the guest's Debian
	qemu-system-x86  # runs the microVMs
	qemu-utils       # qemu-img makes a microVM's disk on top of the image
)
test=(gcc libc6-dev iproute2 nftables postgresql-15 systemd)
[ "$(id -u)" = 0 ] || run+=(uidmap) # mmdebstrap of a user who is not root makes a user namespace

case ${1:-} in
run) wanted=("${run[@]}") ;;
test) wanted=("${run[@]}" "${test[@]}") ;;
*) echo "usage: deps.sh run|test" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
	echo "deps: this is not a Debian; please install what these packages have: ${wanted[*]}" >&2
	exit 0
fi

missing=()
for package in "${wanted[@]}"; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "deps: missing: ${missing[*]}" >&2
		echo "deps: you are not root and there is no sudo; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
	as_root=(sudo)
fi

echo "deps: installing ${missing[*]}"
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}")
# A fresh machine has no package lists, an old one has stale ones.
"${install[@]}" >/dev/null 2>&1 || { "${as_root[@]}" apt-get -qq update && "${install[@]}" >/dev/null; } || {
	echo "deps: apt-get could not install them; see above" >&2
	exit 1
}
