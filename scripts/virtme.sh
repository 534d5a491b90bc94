#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Prints the directory of virtme-ng, which is Debian's package of a newer suite,
# unpacked into BUILD/virtme, not installed. VIRTME names a directory or package.
set -euo pipefail
options='VIRTME'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

dir=$build/virtme
if [ -d "${VIRTME:-}" ]; then
	echo "$VIRTME"
	exit 0
fi
lock virtme
if [ ! -x "$dir/usr/bin/virtme-run" ]; then
	need dpkg-deb
	deb=${VIRTME:-$("$top/scripts/debian-get.sh" "give VIRTME=/path/to/virtme-ng.deb" \
		virtme-ng '^1\.')} || exit 1
	rm -rf "$dir" "$dir.tmp"
	dpkg-deb -x "$deb" "$dir.tmp" || die "$deb is no Debian package"
	init=$dir.tmp/usr/lib/python3/dist-packages/virtme/guest/virtme-init
	[ -x "$init" ] || die "$deb holds no virtme-init"
	# udev and systemd-tmpfiles take most of a boot without KVM. Of what they do,
	# the names of the serial ports are needed.
	# shellcheck disable=SC2016	# for the guest to expand
	sed -i -e '/^run_systemd_tmpfiles$/d' -e '/^run_udevd$/c\
mkdir -p /dev/virtio-ports\
for port in /sys/class/virtio-ports/*/name; do\
	IFS= read -r name <"$port" && port=${port%/name} &&\
		ln -sf "../${port##*/}" "/dev/virtio-ports/$name"\
done' "$init"
	grep -q '^for port in' "$init" || die "this virtme-init is not known: give VIRTME=directory"
	# A directory that may be written may lie in one that may not: mount it later.
	run=$dir.tmp/usr/lib/python3/dist-packages/virtme/commands/run.py
	sed -i 's/(("rwdir", i) for i in args.rwdir), (("rodir", i) for i in args.rodir)/(("rodir", i) for i in args.rodir), (("rwdir", i) for i in args.rwdir)/' "$run"
	grep -q 'args.rodir), (("rwdir"' "$run" || die "this virtme-run is not known: give VIRTME=directory"
	mv "$dir.tmp" "$dir"
fi
echo "$dir"
