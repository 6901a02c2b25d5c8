#!/bin/bash
# What the suite of a node asks of sudo, systemd-run and systemctl, on a machine
# without systemd: to start kubelet as a service, and to end and restart it. A unit
# is a file with its command and one with its process, beside this program.
set -u
units=$(dirname "$(readlink -f "$0")")

start() {
	eval "setsid $(cat "$units/$1") </dev/null &"
	echo $! >"$units/$1.pid"
}

# The callers read what is said of units in messages, too: nothing is.
signal() {
	[ -e "$units/$1.pid" ] && kill "-$2" "$(cat "$units/$1.pid")" 2>/dev/null
}

stop() {
	signal "$1" TERM
	while signal "$1" 0; do sleep 0.1; done
	rm -f "$units/$1.pid"
}

case $(basename "$0") in
sudo)
	exec "$@"
	;;
systemd-run)
	log=/dev/null unit=
	while [ $# -gt 0 ]; do
		case $1 in
		--version) echo "systemd 252 (none)"; exit ;;
		--unit=*) unit=${1#--unit=} ;;
		-p)
			case $2 in StandardError=*) log=${2#StandardError=*:} ;; esac
			shift
			;;
		-*) ;;
		*) break ;;
		esac
		shift
	done
	# The caller has doubled what is special to systemd.
	arguments=("${@//%%/%}")
	arguments=("${arguments[@]//\$\$/\$}")
	printf '%q ' "${arguments[@]}" >"$units/$unit"
	printf '>>%q 2>&1\n' "$log" >>"$units/$unit"
	start "$unit"
	;;
systemctl)
	unit=${2:-}
	[ "${unit%.service}" != "$unit" ] || unit=$unit.service
	case ${1:-} in
	list-units)
		for u in "$units"/*.service; do
			u=$(basename "$u")
			[[ ${*} != *--state=running* ]] || signal "$u" 0 || continue
			echo "  $u loaded active running"
		done
		;;
	kill) signal "$unit" TERM || : ;;
	# A service made by systemd-run is forgotten then.
	stop) stop "$unit" && rm -f "$units/$unit" ;;
	restart) stop "$unit" && start "$unit" ;;
	reset-failed) ;;
	*) echo "systemctl ${*}: there is no systemd" >&2; exit 1 ;;
	esac
	;;
esac
