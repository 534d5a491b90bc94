#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Prints the directory of a Debian system of another architecture than this machine's,
# for guests: unpacked from Debian's packages by mmdebstrap, which runs none of their
# programs. It is kept in the user's cache and made again when this script changes.
set -euo pipefail
options='ARCH'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

packages=base-passwd,bash,busybox-static,coreutils,diffutils,findutils,grep,sed,mawk,procps,util-linux,mount,kmod
packages+=,redis-server,redis-tools,libjemalloc2,libtcmalloc-minimal4,linux-perf
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
root=$cache/root-$arch
# Of the packages, and of what is done to them below.
id="$suite $(sha256sum <"$0")"

lock "root-$arch" "$cache"
if [ "$id" != "$(cat "$root/.id" 2>/dev/null)" ]; then
	need mmdebstrap
	need_space "$cache" 1500
	mkdir -p "$build/log"
	step root "$arch: Debian $suite"
	rm -rf "$root" "$root.tmp"
	mmdebstrap --quiet --architectures="$arch" --variant=extract \
		--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include="$packages" \
		"$suite" "$root.tmp" >"$build/log/root.log" 2>&1 ||
		die "mmdebstrap failed, see $build/log/root.log: $(tail -n 1 "$build/log/root.log")"
	# What the packages would do when they are installed.
	ln -s bash "$root.tmp/usr/bin/sh"
	ln -s mawk "$root.tmp/usr/bin/awk"
	ln -s ../bin/busybox "$root.tmp/usr/sbin/poweroff"
	ln -s ../bin/busybox "$root.tmp/usr/sbin/ip"
	cp "$root.tmp/usr/share/base-passwd/passwd.master" "$root.tmp/etc/passwd"
	cp "$root.tmp/usr/share/base-passwd/group.master" "$root.tmp/etc/group"
	mkdir -p "$root.tmp"/{home,lib,mnt,opt,srv,usr/lib/modules}
	printf '%s\n' "127.0.0.1 localhost" >"$root.tmp/etc/hosts"
	echo "$id" >"$root.tmp/.id"
	mv "$root.tmp" "$root"
	step_done
fi
echo "$root"
