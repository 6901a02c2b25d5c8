#!/bin/bash
# Start the daemon in the foreground and, once it serves, say what to try next.
# Usage: run.sh CRI-NODE [FLAG...]
set -euo pipefail

daemon=$1
shift
if [ "$(id -u)" -ne 0 ]; then
	echo "make run needs root: cri-node mounts file systems and makes namespaces." >&2
	exit 1
fi
listen=$("$daemon" config dump "$@" | sed -n "s/^listen = '\(.*\)'$/\1/p")
socket=${listen#unix://}
if grep -q " $socket\$" /proc/net/unix; then
	echo "Something serves on $socket already; stop it first, or use ARGS=\"--state DIR --root DIR\"." >&2
	exit 1
fi

"$daemon" serve "$@" &
pid=$!
# Ctrl-C reaches the daemon by itself, SIGTERM does not.
trap 'kill -TERM $pid 2>/dev/null || true' TERM
trap ':' INT

until grep -q " $socket\$" /proc/net/unix; do
	if ! kill -0 $pid 2>/dev/null; then
		code=0
		wait $pid || code=$?
		echo "cri-node ended before it served (exit code $code)." >&2
		exit 1
	fi
	sleep 0.1
done
cat <<END

cri-node serves on $listen
Its state is kept; stop it with Ctrl-C, and the pods go on without it.

In another terminal:
  make demo                                      a pod from pull to removal (a daemon of its own)
  $daemon config default   every key of the configuration
  crictl -r $listen info         with crictl of kubernetes-sigs/cri-tools; or for good:
  install -D -m 0644 packaging/crictl.yaml /etc/crictl.yaml
For kubelet: --container-runtime-endpoint=$listen

END
# A signal ends wait early; the daemon then takes its time to drain.
code=0
while kill -0 $pid 2>/dev/null; do
	code=0
	wait $pid || code=$?
done
exit $code
