#!/bin/bash
# Install what `make build` and `make deps` made: the program, runc, the CNI
# plugins, the systemd units, man pages, completions and, where there are none
# yet, /etc/cri-node/config.toml and /etc/crictl.yaml. A second run changes only
# what is different. A daemon that runs is replaced; pods go on meanwhile.
set -euo pipefail
umask 022

usage() {
	cat <<'END'
Usage: install.sh [OPTION...]

  --prefix DIR    install below DIR (/usr/local)
  --destdir DIR   put it all below DIR, as for a package; nothing is started
  --bin DIR       where cri-node, runc and cni are (bin, beside this script's folder)
  --start         start the daemon now and at each boot
  --uninstall     take away what an earlier run has installed, images and pods not
  --purge         with --uninstall: images, volumes and settings, too
  --force         go on although the machine has problems, or containers
END
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=/usr/local destdir='' bin='' start='' uninstall='' purge='' force=''
refuse() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}
while [ $# -gt 0 ]; do
	case $1 in
	--prefix | --destdir | --bin)
		[ -n "${2:-}" ] || refuse "$1 needs a directory"
		case $2 in /*) ;; *) refuse "$1 $2: it has to begin with /" ;; esac
		printf -v "${1#--}" %s "$2"
		shift
		;;
	--start | --uninstall | --purge | --force) printf -v "${1#--}" yes ;;
	-h | --help)
		usage
		exit
		;;
	*) refuse "$1 is no option; --help lists them" ;;
	esac
	shift
done
bin=${bin:-$(dirname "$here")/bin}
prefix=${prefix%/}
destdir=${destdir%/}
[ -n "$prefix" ] || refuse "--prefix / is no place for it: /usr or /usr/local is"
[ -z "$purge" ] || [ -n "$uninstall" ] || refuse "--purge goes with --uninstall"
[ -z "$destdir" ] || [ -z "$start$purge" ] || refuse "--start and --purge do not go with --destdir"
# With --destdir the machine that installs is not the one that runs it.
[ -n "$destdir" ] || [ "$(id -u)" -eq 0 ] || refuse "this needs root; or give --destdir DIR to put it elsewhere"

program=$prefix/bin/cri-node
library=$prefix/lib/cri-node
share=$prefix/share
# systemd looks below these two prefixes only.
case $prefix in
/usr | /usr/local) units=$prefix/lib/systemd/system ;;
*) units=/etc/systemd/system ;;
esac
# What was installed, one line a file: its checksum and its name.
list=$share/cri-node/installed

# systemd says whether there is one to talk to.
systemd() { [ -z "$destdir" ] && [ -d /run/systemd/system ]; }

remove_all() {
	[ -e "$destdir$list" ] || refuse "nothing of it is below $destdir$prefix ($list is missing)"
	if [ -z "$destdir" ]; then
		local containers
		if containers=$("$program" ps -aq 2>/dev/null); then
			[ -z "$containers" ] || [ -n "$force" ] ||
				refuse "$(wc -l <<<"$containers") containers are here, which nobody would look after: drain the node, or cri-node rm -f them; --force leaves them running"
		elif grep -q ' /\(run\|var/lib\)/cri-node/' /proc/self/mountinfo; then
			containers=unknown # their files are mounted, and there is no daemon to ask
			[ -n "$force" ] || refuse "the daemon does not answer, and containers seem to be here, which nobody would look after: start it and remove them; --force leaves them running"
		fi
		if systemd; then
			systemctl disable --now cri-node.service || true
			# What keeps the logs outlives the daemon, and is done when there is no container.
			[ -n "$containers" ] || systemctl kill --signal=TERM cri-node.service 2>/dev/null || true
		fi
	fi
	local sum name gone=()
	while read -r sum name; do
		[ -e "$destdir$name" ] || [ -L "$destdir$name" ] || continue
		case $name in
		/etc/cri-node/* | /etc/crictl.yaml)
			if [ -z "$purge" ] && [ "$(checksum "$destdir$name")" != "$sum" ]; then
				echo "kept      $name, which was changed"
				continue
			fi
			;;
		esac
		gone+=("$name")
	done <"$destdir$list"
	(cd "$destdir/" && rm -f "${gone[@]/#/.}" ".$list")
	printf 'removed   %s\n' "${gone[@]}"
	# Folders of our own, unless somebody has put something there.
	local folder
	for folder in "$library/cni" "$library" "$share/cri-node" /etc/cri-node; do
		rmdir "$destdir$folder" 2>/dev/null || true
	done
	if systemd; then
		systemctl daemon-reload
	fi
	if [ -n "$purge" ]; then
		purge_data
	else
		[ -n "$destdir" ] || echo "Images and volumes are still in /var/lib/cri-node; --purge would have removed them."
	fi
}

purge_data() {
	local dir
	for dir in /run/cri-node /var/lib/cri-node; do
		if grep -q " $dir/" /proc/self/mountinfo; then
			refuse "something is still mounted below $dir; after a reboot it is not, then remove $dir"
		fi
		rm -rf --one-file-system "$dir"
		echo "removed   $dir"
	done
	rm -rf /etc/cri-node
}

checksum() { sha256sum <"$1" | cut -d' ' -f1; }

changed=0
# settle brings below destdir what is in the folder tree and not there yet. A program
# that runs keeps the file it began with: tar makes a new one.
settle() {
	install -d "$destdir/"
	find . -type f -printf '/%P\n' | sort >"$work/names"
	sed 's|^/||' "$work/names" | tr '\n' '\0' | xargs -0 sha256sum | sed 's|  |  /|' >"$work/sums"
	(cd "$destdir/" && sha256sum --quiet --check - 2>/dev/null < <(sed 's|  /|  |' "$work/sums")) |
		sed -n 's|^\(.*\): FAILED.*|\1|p' >"$work/changed" || true
	# What is the same in another mode.
	comm -23 <(tr '\n' '\0' <"$work/names" | sed -z 's|^|.|' | xargs -0 stat -c '%a %n' | sort) \
		<(cd "$destdir/" && tr '\n' '\0' <"$work/names" | sed -z 's|^|.|' | xargs -0 stat -c '%a %n' 2>/dev/null | sort) |
		cut -d/ -f2- >>"$work/changed"
	sort -u -o "$work/changed" "$work/changed"
	changed=$(wc -l <"$work/changed")
	if [ "$changed" -gt 0 ]; then
		tar -cf - --owner=0 --group=0 -T "$work/changed" | tar -C "$destdir/" -xpf -
		sed 's|^|installed /|' "$work/changed"
	fi
	# As the list has them: one space, and the files of others that were offered.
	sed 's|  | |' "$work/sums" | cat - "$work/theirs" >"$work/list"
}

# put MODE SOURCE NAME makes a file of the tree.
put() { install -D -m "$1" "$2" ".$3"; }

# offer SOURCE NAME is put for a file that belongs to whoever looks after the
# machine: never over theirs.
offer() {
	if [ -e "$destdir$2" ] && ! cmp -s "$1" "$destdir$2"; then
		echo "kept      $2, which differs from $(basename "$1") here"
		# An uninstall takes away only what it knows.
		awk -v name="$2" '$2 == name' "$destdir$list" 2>/dev/null >>"$work/theirs" || true
		return
	fi
	put 644 "$1" "$2"
}

check() {
	[ "$(uname -s)" = Linux ] || refuse "cri-node runs on Linux only"
	[ -x "$bin/cri-node" ] || refuse "there is no $bin/cri-node: run make build first, or name its folder with --bin"
	"$bin/cri-node" version >/dev/null 2>&1 || refuse "$bin/cri-node does not run on this machine"
	[ -x "$bin/runc" ] || [ -n "$force" ] || command -v runc crun >/dev/null ||
		refuse "there is neither $bin/runc nor another OCI runtime: run make deps first"
	[ -z "$destdir" ] || return 0
	local findings
	if ! findings=$("$bin/cri-node" doctor --machine 2>&1); then
		grep -A 1 '^PROBLEM' <<<"$findings" >&2 || printf '%s\n' "$findings" >&2
		[ -n "$force" ] || refuse "this machine cannot run containers yet, nothing was installed; --force installs all the same"
	fi
	local other
	other=$(command -v cri-node || true)
	if [ -n "$other" ] && [ "$(readlink -f "$other")" != "$(readlink -f "$program" || true)" ]; then
		echo "note      another cri-node is $other; the first in \$PATH is what people get" >&2
	fi
}

install_all() {
	check
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	mkdir "$work/tree"
	cd "$work/tree"
	: >"$work/theirs"

	put 755 "$bin/cri-node" "$program"
	if [ -x "$bin/runc" ]; then
		put 755 "$bin/runc" "$library/runc"
	fi
	if [ -d "$bin/cni" ]; then
		install -d ".$library/cni"
		find "$bin/cni/" -maxdepth 1 -type f -perm -u+x -exec install -m 755 -t ".$library/cni" {} +
	fi
	put 755 "$here/load-images.sh" "$library/load-images"
	install -d ".$units"
	local unit shell
	for unit in cri-node.service cri-node-images@.service; do
		sed "s|/usr/local/|$prefix/|g" "$here/$unit" >".$units/$unit"
	done
	put 644 "$here/crictl.yaml" "$share/cri-node/crictl.yaml"
	offer "$here/crictl.yaml" /etc/crictl.yaml
	offer "$here/config.toml" /etc/cri-node/config.toml

	"$bin/cri-node" man ".$share/man/man1" >/dev/null
	for shell in bash zsh fish; do
		"$bin/cri-node" completion "$shell" >"$work/$shell"
	done
	put 644 "$work/bash" "$share/bash-completion/completions/cri-node"
	put 644 "$work/zsh" "$share/zsh/site-functions/_cri-node"
	put 644 "$work/fish" "$share/fish/vendor_completions.d/cri-node.fish"
	settle

	# What an earlier version had and this one has not.
	if [ -e "$destdir$list" ]; then
		cut -d' ' -f2- "$destdir$list" | sort | comm -13 "$work/names" - | grep -v ^/etc/ >"$work/gone" || true
		while read -r name; do
			rm -f "$destdir$name"
			echo "removed   $name"
		done <"$work/gone"
	fi
	install -d "$destdir$(dirname "$list")"
	cmp -s "$work/list" "$destdir$list" || install -m 644 "$work/list" "$destdir$list"
	cd /
}

# begin starts the daemon, or replaces the one that runs.
begin() {
	if ! systemd; then
		[ -n "$destdir" ] || echo "There is no systemd here; start it with: $program serve"
		return 0
	fi
	"$program" config check || refuse "the daemon was not touched: mend its configuration first"
	systemctl daemon-reload
	if systemctl is-active -q cri-node.service; then
		if [ "$changed" -gt 0 ]; then
			systemctl restart cri-node.service
			echo "The daemon was replaced; containers went on."
		fi
		if [ -n "$start" ]; then systemctl enable -q cri-node.service; fi
	elif [ -n "$start" ]; then
		# It is of type notify: this returns when the daemon serves.
		systemctl enable --now cri-node.service
		"$program" doctor
	else
		echo "Next: systemctl enable --now cri-node"
	fi
	echo "kubelet takes: containerRuntimeEndpoint: unix:///run/cri-node/cri.sock"
}

if [ -n "$uninstall" ]; then
	remove_all
	exit
fi
install_all
if [ "$changed" -eq 0 ]; then
	echo "All of it was below $destdir$prefix already."
else
	echo "Installed below $destdir$prefix: $changed files."
fi
begin
