#!/usr/bin/env bash
# Makes every generated file again.
#
#   generate.sh             all of them
#   generate.sh sum         print the sum of sqlc's input and output, which check compares
#   generate.sh sum-proto   print the sum of the .proto files and what was made of them, which check compares too
set -euo pipefail
cd "$(dirname "$0")/.."
queries=(internal/store/sqlite internal/store/postgres)
protos=proto/flintlock

# The names and contents of everything that sqlc reads and writes, and sqlc's version.
sum() {
	grep -o 'github.com/sqlc-dev/sqlc v[^ ]*' tools/go.mod
	find "${queries[@]}" -type f \( -name '*.sql' -o -name sqlc.yaml -o -path '*/sqlc/*' \) -not -path '*/testdata/*' |
		LC_ALL=C sort | xargs sha256sum
}

# The names and contents of the .proto files and of the code that was made of them, and the versions that made it.
sum_proto() {
	(
		grep -o -E '(bufbuild/protocompile|golang.org/protobuf|cmd/protoc-gen-go-grpc) v[^ ]*' tools/go.mod
		cd "$protos"
		find . -type f \( -name '*.proto' -o -name '*.pb.go' \) | LC_ALL=C sort | xargs sha256sum
	)
}

case "${1:-}" in
sum) sum && exit ;;
sum-proto) sum_proto && exit ;;
esac
sqlc=$(tools/tool.sh sqlc)
for folder in "${queries[@]}"; do
	(cd "$folder" && "$sqlc" generate)
done
sum >tools/sqlc.sum
if [ "$(sum_proto)" != "$(cat tools/proto.sum 2>/dev/null)" ]; then
	plugins=(-plugin "$(tools/tool.sh protoc-gen-go)" -plugin "$(tools/tool.sh protoc-gen-go-grpc)")
	(cd "$protos" && find . -name '*.proto' -printf '%P\n' | LC_ALL=C sort) |
		xargs go run -C tools ./protobuf -root "$PWD/$protos" "${plugins[@]}"
	sum_proto >tools/proto.sum
fi
UPDATE=1 go test -count=1 -run '^(TestImports|TestLifecycleDocument)$' .
