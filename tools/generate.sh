#!/usr/bin/env bash
# Makes every generated file again.
#
#   generate.sh        all of them
#   generate.sh sum    print the sum of sqlc's input and output, which check compares
set -euo pipefail
cd "$(dirname "$0")/.."
queries=internal/store/sqlite

# The names and contents of everything that sqlc reads and writes, and sqlc's version.
sum() {
	(
		cd "$queries"
		grep -o 'github.com/sqlc-dev/sqlc v[^ ]*' ../../../tools/go.mod
		find . -type f \( -name '*.sql' -o -name sqlc.yaml -o -path './sqlc/*' \) |
			LC_ALL=C sort | xargs sha256sum
	)
}

if [ "${1:-}" = sum ]; then
	sum
	exit
fi
if [ -e "$queries/sqlc.yaml" ]; then
	(sqlc=$(tools/tool.sh sqlc) && cd "$queries" && "$sqlc" generate)
	sum >tools/sqlc.sum
fi
UPDATE=1 go test -count=1 -run '^(TestImports|TestLifecycleDocument)$' .
