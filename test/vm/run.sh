#!/bin/bash
# Boot Debian 12 with systemd in qemu, run the tests in it and report: what
# `make test-vm` does. cgroup v2, systemd's cgroup driver, AppArmor and Linux 6.1
# come with that machine. Usage: run.sh DIR, where DIR keeps the machine and the
# results and DIR/payload holds what the machine gets.
#
#   VM_SMOKE=1       a few tests of each kind only
#   VM_RUN=REGEX     only these end-to-end tests; "none" for none
#   CRITEST=PATH     the validation suite as well, with its images from REGISTRY
#   CRITEST_ARGS=    its arguments
#   VM_HANDLER=runc  the service's default OCI runtime, else the program's choice
#   VM_TIMEOUT=3h  VM_MEMORY=4096 (MiB)  VM_CPUS=2  VM_ACCEL=kvm|tcg|icount
#   VM_SLOWDOWN=5    how much more patience the tests have without KVM (tcg: 20)
#
# Without KVM the machine is emulated: with two processors, in the time of this
# machine ("tcg"), or with one, whose clock stands still while it does ("icount").
# That is for the validation suite, which has no patience to stretch.
set -euo pipefail

dir=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
payload=$dir/payload
results=$dir/results

# The machine is made anew when what it is made of changes.
key=$(cat "$here/image.sh" "$here/init" "$here/guest.service" | sha256sum | cut -c1-12)
machine=$dir/machine-$key
if [ ! -e "$machine/root.ext4" ]; then
	rm -rf "$dir"/machine-*
	bash "$here/image.sh" "$machine"
fi

rm -rf "$results" "$dir/console.log"
mkdir -p "$results"
install -m 0755 "$here/guest.sh" "$payload/guest.sh"

# Some machines have a /dev/kvm in which nothing runs: try before trusting it.
accelerator() {
	if [ -n "${VM_ACCEL:-}" ]; then
		echo "$VM_ACCEL"
	elif [ -w /dev/kvm ] && timeout 20 qemu-system-x86_64 -accel kvm -m 256 -display none -monitor none -serial none \
		-nic none -no-reboot -kernel "$machine/vmlinuz" -append "panic=-1 rdinit=/none" </dev/null >/dev/null 2>&1; then
		echo kvm
	elif [ -n "${CRITEST:-}" ]; then
		echo icount
	else
		echo tcg
	fi
}
accel=$(accelerator)
cpu=host slowdown=1 clock=() cpus=${VM_CPUS:-2}
if [ "$accel" = tcg ]; then
	# The plainest processor is the fastest to emulate.
	accel=tcg,thread=multi,tb-size=1024 cpu=qemu64 slowdown=${VM_SLOWDOWN:-20}
elif [ "$accel" = icount ]; then
	# The machine's clock goes by what it has executed, 5*10^8 instructions to the
	# second, so that no other work on this one makes it slower to itself. A second
	# processor would not come up.
	accel=tcg,thread=single,tb-size=1024 cpu=qemu64 slowdown=${VM_SLOWDOWN:-5} clock=(-icount "shift=1") cpus=1
fi

network=(-nic none)
if [ -n "${CRITEST:-}" ]; then
	install -m 0755 "$CRITEST" "$payload/bin/critest"
	# The guest reaches this machine's loopback as 10.0.2.2.
	network=(-nic "user,model=virtio-net-pci")
fi
registry=${REGISTRY:-127.0.0.1:5000}
limit=${VM_TIMEOUT:-3h}
case $limit in
*h) seconds=$((${limit%h} * 3600)) ;;
*m) seconds=$((${limit%m} * 60)) ;;
*) seconds=${limit%s} ;;
esac
cat >"$payload/settings" <<END
SMOKE=$(printf %q "${VM_SMOKE:-}")
RUN=$(printf %q "${VM_RUN:-}")
CRITEST_ARGS=$(printf %q "${CRITEST_ARGS:-}")
HANDLER=$(printf %q "${VM_HANDLER:-}")
REGISTRY=10.0.2.2:${registry##*:}
CRI_NODE_TEST_SLOWDOWN=$slowdown
DEADLINE=$(($(date +%s) + seconds))
END
# The results come back as a tar archive on a disk of their own.
size=$(($(du -sm "$payload" | cut -f1) * 11 / 10 + 64))
rm -f "$dir/payload.ext4" "$dir/results.tar"
truncate -s "${size}M" "$dir/payload.ext4"
mkfs.ext4 -q -F -O ^has_journal -m 0 -d "$payload" "$dir/payload.ext4"
truncate -s 256M "$dir/results.tar"

echo "Starting the machine ($accel); its console is in $dir/console.log"
code=0
timeout --foreground --kill-after=10 "$limit" qemu-system-x86_64 \
	-accel "$accel" -cpu "$cpu" "${clock[@]}" -smp "$cpus" -m "${VM_MEMORY:-4096}" \
	-display none -monitor none -no-reboot -nodefaults "${network[@]}" -device virtio-rng-pci \
	-kernel "$machine/vmlinuz" -initrd "$machine/initrd" \
	-append "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off nowatchdog apparmor=1 security=apparmor" \
	-drive "file=$machine/root.ext4,format=raw,if=virtio,snapshot=on,cache=unsafe" \
	-drive "file=$dir/payload.ext4,format=raw,if=virtio,readonly=on" \
	-drive "file=$dir/results.tar,format=raw,if=virtio,cache=unsafe" \
	-serial "file:$dir/console.log" -serial stdio </dev/null || code=$?
rm -f "$dir/payload.ext4"
if [ "$code" -eq 124 ]; then
	echo "The machine did not end within $limit." >&2
fi
tar -xf "$dir/results.tar" -C "$results" || true
rm -f "$dir/results.tar"
if [ ! -e "$results/code" ]; then
	echo "The machine gave no results; the end of its console:" >&2
	tail -n 40 "$dir/console.log" >&2
	exit 1
fi
echo
cat "$results/summary"
echo "Everything the machine wrote is in $results"
exit "$(cat "$results/code")"
