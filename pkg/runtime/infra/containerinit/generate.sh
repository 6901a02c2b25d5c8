#!/bin/sh
# generate.sh — makes init.amd64 and init.arm64 of init.c. It needs gcc of both
# architectures; nothing but a change of init.c needs it.
set -eu
cd "$(dirname "$0")"
for arch in amd64:x86_64-linux-gnu arm64:aarch64-linux-gnu; do
	"${arch#*:}-gcc" -Os -Wall -Wextra -Werror -std=c11 -ffreestanding -nostdlib -static -no-pie -fno-pie \
		-fno-stack-protector -fno-asynchronous-unwind-tables -fno-builtin -fcf-protection=none \
		-Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro -Wl,-z,noexecstack -s \
		-o "init.${arch%%:*}" init.c 2>/dev/null ||
	"${arch#*:}-gcc" -Os -Wall -Wextra -Werror -std=c11 -ffreestanding -nostdlib -static -no-pie -fno-pie \
		-fno-stack-protector -fno-asynchronous-unwind-tables -fno-builtin \
		-Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro -Wl,-z,noexecstack -s \
		-o "init.${arch%%:*}" init.c
	"${arch#*:}-objcopy" --remove-section=.comment --remove-section=.note.gnu.property "init.${arch%%:*}"
	chmod 644 "init.${arch%%:*}"
done
