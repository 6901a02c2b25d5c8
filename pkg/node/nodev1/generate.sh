#!/bin/bash
# Makes the Go code of the .proto files here: run by `make generate`, with protoc
# (Debian's protobuf-compiler) and the plugins in TOOLS, its argument.
set -euo pipefail
tools=$1
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
include=$(mktemp -d)
trap 'rm -rf "$include"' EXIT
# The name that the CRI module's own descriptor has.
cri=staging/src/k8s.io/cri-api/pkg/apis/runtime/v1
mkdir -p "$include/$cri"
# Debian's protoc does not know debug_redact, which says nothing about the form.
sed 's/ \[ *debug_redact = true *\]//' "$(go list -m -f '{{.Dir}}' k8s.io/cri-api)/pkg/apis/runtime/v1/api.proto" >"$include/$cri/api.proto"
protoc -I . -I "$include" \
	--plugin="$tools/protoc-gen-go" --plugin="$tools/protoc-gen-go-grpc" \
	--go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative \
	pkg/node/nodev1/*.proto
