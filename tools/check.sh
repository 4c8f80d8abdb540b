#!/usr/bin/env bash
# All that can be said about the code without running it. Every check runs, so that one run tells everything.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=()

check() {
	local name=$1 began=$SECONDS
	shift
	echo "--- $name"
	if "$@"; then
		echo "    ok, $((SECONDS - began)) s"
	else
		failed+=("$name")
		echo "    FAILED, $((SECONDS - began)) s" >&2
	fi
}

lint() { "$(tools/tool.sh golangci-lint)" run ./...; }
format() { "$(tools/tool.sh golangci-lint)" fmt --diff ./...; }
tidy() { go mod tidy -diff && (cd tools && go mod tidy -diff); }
# The tests of the root package compare the import graph and the drawings in docs with the code.
generated() { go test -count=1 -run '^(TestImports|TestLifecycleDocument)$' . && queries && protos; }
# sqlc has a long build; where no query has changed since it ran, its input's sum says so.
queries() {
	tools/generate.sh sum | diff -u tools/sqlc.sum - || {
		echo "the queries have changed: make generate" >&2
		return 1
	}
}
# The tools that make code of .proto files need building too.
protos() {
	tools/generate.sh sum-proto | diff -u tools/proto.sum - || {
		echo "the .proto files or their code have changed: make generate" >&2
		return 1
	}
}
shell_syntax() {
	local file
	for file in .ci/run tools/*.sh test/gitlabrunner/*.sh; do bash -n "$file" || return 1; done
}

check "go vet" go vet ./...
check "golangci-lint" lint
check "format (gofumpt)" format
check "go mod tidy" tidy
check "generated files, import graph" generated
check "shell syntax" shell_syntax

if [ ${#failed[@]} -gt 0 ]; then
	printf 'check: FAILED: %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "check: ok"
