#!/bin/bash
# Make the machine of `make test-vm`: vmlinuz, initrd and root.ext4, Debian 12
# with systemd. Usage: image.sh DIR. Needs root, debootstrap and e2fsprogs; no
# loop device.
set -euo pipefail

# What debootstrap mounts goes with this namespace, however all this ends.
if [ -z "${VM_IMAGE_NAMESPACE:-}" ]; then
	VM_IMAGE_NAMESPACE=1 exec unshare --mount --propagation private bash "$0" "$@"
fi

target=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mirror=${VM_MIRROR:-http://deb.debian.org/debian}
packages=(
	systemd systemd-sysv dbus udev kmod linux-image-amd64
	apparmor apparmor-utils libseccomp2 crun criu
	iproute2 nftables iptables busybox-static
	ca-certificates procps util-linux-extra sudo
)

work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
include=$(IFS=,; echo "${packages[*]}")
echo "Making Debian 12 with ${#packages[@]} packages out of $mirror"
if ! debootstrap --variant=minbase --include="$include" bookworm "$root" "$mirror" >"$work/log" 2>&1; then
	tail -n 30 "$work/log" >&2
	exit 1
fi

# What a boot need not wait for, and what would change the machine meanwhile.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
	fstrim.timer getty@tty1.service serial-getty@ttyS0.service systemd-timesyncd.service systemd-pstore.service; do
	ln -sfn /dev/null "$root/etc/systemd/system/$unit"
done
echo cri-node-vm >"$root/etc/hostname"
echo "127.0.0.1 localhost cri-node-vm" >"$root/etc/hosts"
echo "nameserver 10.0.2.3" >"$root/etc/resolv.conf"
echo "/dev/vda / ext4 rw 0 0" >"$root/etc/fstab"
printf 'uninitialized\n' >"$root/etc/machine-id"
install -m 0644 "$here/guest.service" "$root/etc/systemd/system/guest.service"
mkdir -p "$root/payload" "$root/etc/systemd/system/multi-user.target.wants"
ln -sfn ../guest.service "$root/etc/systemd/system/multi-user.target.wants/guest.service"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}

# Debian's kernel has its disk driver and ext4 as modules.
version=$(basename "$root"/lib/modules/*)
ram=$work/ram
mkdir -p "$ram"/{bin,dev,root}
cp "$root/bin/busybox" "$ram/bin/busybox"
install -m 0755 "$here/init" "$ram/init"
for module in virtio_pci virtio_blk ext4; do
	chroot "$root" modprobe --set-version "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$ram/modules"
while read -r module; do
	install -D -m 0644 "$root$module" "$ram$module"
done <"$ram/modules"
(cd "$ram" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initrd"
cp "$root/boot/vmlinuz-$version" "$work/vmlinuz"
rm -rf "$root"/boot/initrd* "$root"/boot/vmlinuz* "$root"/boot/System.map*

truncate -s 8G "$work/root.ext4"
mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=1 -d "$root" "$work/root.ext4"
rm -rf "$root" "$ram" "$work/log"
chmod 0755 "$work"
mv -T "$work" "$target"
trap - EXIT
