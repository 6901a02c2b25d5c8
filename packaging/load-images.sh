#!/bin/bash
# Load the archives of images in a folder, as air-gapped nodes have them: .tar,
# plain or compressed with gzip or zstd, as docker save, skopeo or k3s make them.
# Usage: load-images FOLDER. A folder that is missing is an empty one.
set -euo pipefail

folder=${1:?usage: load-images FOLDER}
shopt -s nullglob
code=0
for archive in "$folder"/*.tar "$folder"/*.tar.gz "$folder"/*.tgz "$folder"/*.tar.zst; do
	# The others may be what this node needs most.
	"${CRI_NODE:-cri-node}" load --quiet --input "$archive" || {
		echo "load-images: $archive was not loaded" >&2
		code=1
	}
done
exit $code
