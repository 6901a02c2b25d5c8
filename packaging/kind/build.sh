#!/bin/bash
# Make a kind node image with cri-node out of one of kind's. Usage:
#
#   build.sh [FROM [TO]]     (kindest/node:v1.37.0, cri-node/node:latest)
#
# BUILDER is what builds, "docker" or "cri-node" (docker where there is one), BIN
# the folder with cri-node, runc and the CNI plugins (bin).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
from=${1:-kindest/node:v1.37.0} to=${2:-cri-node/node:latest}
bin=${BIN:-$(dirname "$(dirname "$here")")/bin}
builder=${BUILDER:-$(command -v docker >/dev/null && echo docker || echo cri-node)}

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
bash "$here/../install.sh" --bin "$bin" --destdir "$context/root" >/dev/null
rm "$context/root/etc/cri-node/config.toml" # kind's own follows
cp -r "$here" "$context/kind"
cp "$here/Dockerfile" "$context/Dockerfile"
"$builder" build --build-arg NODE_IMAGE="$from" -t "$to" "$context"
echo "Now: kind create cluster --image $to"
