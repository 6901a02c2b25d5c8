#!/bin/bash
# Write all images of the containerd of a kind node image into one archive, at
# build time and without unpacking any. Usage: export-images.sh ARCHIVE
set -euo pipefail

archive=${1:?usage: export-images.sh ARCHIVE}
containerd >/tmp/containerd.log 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null || true' EXIT
for ((i = 0; ; i++)); do
	ctr version >/dev/null 2>&1 && break
	if ! kill -0 $pid 2>/dev/null || [ $i -ge 300 ]; then
		tail -n 20 /tmp/containerd.log >&2
		exit 1
	fi
	sleep 0.1
done
mkdir -p "$(dirname "$archive")"
# Names by digest lead to the same images.
mapfile -t names < <(ctr --namespace k8s.io images ls -q | grep -v -e '^sha256:' -e '@sha256:')
if [ ${#names[@]} -gt 0 ]; then
	ctr --namespace k8s.io images export "$archive" "${names[@]}"
fi
echo "${#names[@]} images: ${names[*]}"
kill $pid
wait $pid || true
rm -rf /tmp/containerd.log
