#!/usr/bin/env bash
# Runs every fuzz test of the module for a while, one after the other:
#
#   fuzz.sh 30s
set -euo pipefail
cd "$(dirname "$0")/.."
for_each=${1:-10s}
found=0
while IFS=: read -r file name; do
	found=$((found + 1))
	echo "--- $name in $(dirname "$file"), $for_each"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$for_each" "./$(dirname "$file")"
done < <(git grep -oP '^func \KFuzz\w+' -- '*_test.go')
[ "$found" -gt 0 ] || { echo "fuzz: no fuzz test found" >&2; exit 1; }
echo "fuzz: $found tests ok"
