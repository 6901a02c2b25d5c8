#!/bin/bash
# Runs in the machine of `make test-vm`, as root and by systemd. It leaves
# results/code, results/summary and all output on the disk for results.
set -uo pipefail

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
# shellcheck source=/dev/null
. /payload/settings
export CRI_NODE_TEST_SLOWDOWN CRITEST_ARGS
results=/root/results
mkdir -p "$results"
failed=()

# The tests that show in minutes that the parts work together.
smoke='^(TestVersionAndStatus|TestContainerLifecycle|TestContainerEnds|TestExecSync|TestUpdateResources|TestPodCgroupParent|TestPodSharedPID|TestUserNamespace|TestAppArmor.*|TestContainerStats)$'

say() { printf '%s %s\n' "$(date +%T)" "$*"; }

machine() {
	say "Linux $(uname -r), $(nproc) processors, cgroups: $(stat -fc %T /sys/fs/cgroup), AppArmor: $(cat /sys/module/apparmor/parameters/enabled), up $(cut -d' ' -f1 /proc/uptime) s"
	say "$(systemctl --version | head -n 1); $(/payload/bin/runc --version | head -n 1); $(crun --version | head -n 1)"
}

# step NAME COMMAND...: its output goes to the results and to the console.
step() {
	local name=$1
	shift
	say "== $name"
	if "$@" 2>&1 | tee "$results/$name.log"; then
		say "== $name: passed"
	else
		failed+=("$name")
		say "== $name: FAILED"
	fi
}

# The program as `make install` puts it, run by systemd.
service() {
	cp -a /payload/install/. /
	mkdir -p /etc/cri-node/certs.d/_default
	cp /payload/config.toml /etc/cri-node/config.toml
	if [ -n "$HANDLER" ]; then
		printf '[runtime]\ndefault_handler = "%s"\n' "$HANDLER" >>/etc/cri-node/config.toml
	fi
	printf 'server = "http://%s"\n[host."http://%s"]\ncapabilities = ["pull", "resolve"]\n' "$REGISTRY" "$REGISTRY" \
		>/etc/cri-node/certs.d/_default/hosts.toml
	systemctl daemon-reload
	# Type=notify: the start returns when the daemon serves.
	systemctl start cri-node && systemctl is-active cri-node
	local ok=$?
	journalctl -u cri-node -o cat --no-pager | tail -n 20
	return $ok
}

# left is the number of seconds that tests may take, so that those that take too
# long end, and say where they are, before the machine does. The real-time clock
# is the host's, also where the machine's own goes by what it has executed.
left() { echo "$((DEADLINE - $(cat /sys/class/rtc/rtc0/since_epoch) - 180))"; }

# bounded SIGNAL COMMAND... sends the signal when no time is left.
bounded() {
	local signal=$1
	shift
	"$@" &
	local pid=$!
	while kill -0 $pid 2>/dev/null && [ "$(left)" -gt 0 ]; do
		sleep 2
	done
	kill -s "$signal" $pid 2>/dev/null && say "no time is left"
	wait $pid
}

# The end-to-end tests start daemons of their own.
e2e() {
	local pattern=${RUN:-.}
	[ -z "$SMOKE" ] || pattern=$smoke
	cd /payload/src/test/e2e || return
	: >"$results/e2e.out"
	CRI_NODE_BIN_DIR=/payload/bin CRI_NODE_E2E_PROGRAMS=/payload/bin/programs CRI_NODE_REQUIRE=root,runc,crun,apparmor,criu,address \
		CRI_NODE_E2E_LOG="$results/daemon.log" \
		bounded QUIT /payload/bin/e2e.test -test.v -test.run "$pattern" -test.timeout 0 >"$results/e2e.out" 2>&1 &
	local pid=$!
	# The console gets one line for each test.
	tail -n +1 -f --pid=$pid "$results/e2e.out" |
		grep --line-buffered -E '^(--- |FAIL|PASS|panic:|prepare:)|^ +[a-z0-9_]+_test\.go:[0-9]+: ' | sed -u 's/^\(.\{400\}\).*/\1/'
	wait $pid
}

critest() {
	ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2
	local words
	read -ra words <<<"$CRITEST_ARGS"
	bounded TERM /payload/bin/critest-run -critest /payload/bin/critest -endpoint unix:///run/cri-node/cri.sock \
		-nri-socket /var/run/nri/nri.sock -out "$results/critest" -- -ginkgo.v "${words[@]}" &
	local pid=$!
	# The console gets one line for each spec.
	tail -n +1 -F --pid=$pid "$results/critest/output.log" 2>/dev/null |
		grep --line-buffered -aE '^(• |S \[|P \[|Ran )|^ *\[(FAILED|SKIPPED)\]' | sed -u 's/^\(.\{300\}\).*/\1/'
	wait $pid
}

summary() {
	local out=$results/e2e.out
	machine
	if [ -e "$out" ]; then
		echo "end to end: $(grep -c '^--- PASS' "$out") passed, $(grep -c '^--- FAIL' "$out") failed, $(grep -c '^--- SKIP' "$out") skipped"
		grep -E '^ *--- (FAIL|SKIP)' "$out"
	fi
	if [ -e "$results/critest/summary.md" ]; then
		cat "$results/critest/summary.md"
	fi
	if [ ${#failed[@]} -gt 0 ]; then
		echo "FAIL: ${failed[*]}"
	else
		echo PASS
	fi
}

machine
# Host ports are reached through an address of the machine's own.
ip link add lan0 type dummy && ip address add 192.0.2.10/24 dev lan0 && ip link set lan0 up
step service service
if [ "$RUN" != none ]; then
	step e2e e2e
fi
if [ -x /payload/bin/critest ]; then
	step critest critest
fi
journalctl -b --no-pager >"$results/journal" 2>&1
summary >"$results/summary" 2>&1
echo "$((${#failed[@]} > 0))" >"$results/code"
tar -cf /dev/vdc -C "$results" .
sync
systemctl poweroff --force --force
