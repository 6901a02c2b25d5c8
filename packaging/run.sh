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
here=$(dirname "${BASH_SOURCE[0]}")
address=
[ "$listen" = unix:///run/cri-node/cri.sock ] || address="
  export CRI_NODE_ADDRESS=$listen"
cat <<END

cri-node serves on $listen
Stop it with Ctrl-C; pods go on without it, and the next start finds them.

To try in another terminal:

  export PATH=$(dirname "$daemon"):\$PATH$address
  cri-node run -it --rm ubuntu    a shell in a container (docs/workshop.md goes on from there)
  cri-node ps -a                  the containers of this machine
  cri-node doctor                 what this machine lacks, if anything
  make demo                       a pod from pull to removal, through CRI
  cri-node config default         every key of the configuration, explained

With crictl, which comes from https://github.com/kubernetes-sigs/cri-tools:

  export CONTAINER_RUNTIME_ENDPOINT=$listen
  crictl info
  crictl run --with-pull $here/example/container.json $here/example/pod.json
  crictl ps; curl http://127.0.0.1:8080/; crictl exec -s ID ip address; crictl logs ID

kubelet takes --container-runtime-endpoint=$listen

END
# A signal ends wait early; the daemon then takes its time to drain.
code=0
while kill -0 $pid 2>/dev/null; do
	code=0
	wait $pid || code=$?
done
exit $code
