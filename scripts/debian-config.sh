#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# debian-config.sh FLAVOUR: prints the path of Debian's configuration of that flavour
# (amd64, cloud-amd64; of ARCH) for the version of Linux of the source.
set -euo pipefail
options='ARCH'
words='FLAVOUR'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

v=$(version) || exit 1
config=$build/config-$v-$1

need dpkg-deb tar xz
deb=$(FOREIGN=${cross:+$debarch} "$top/scripts/debian-get.sh" "give CONFIG=/path/to/a configuration" \
	"linux-config-$v" "^${v//./\\.}[.-]") || exit 1
dpkg-deb --fsys-tarfile "$deb" |
	tar -xO "./usr/src/linux-config-$v/config.${debarch}_none_$1.xz" 2>/dev/null | xz -d >"$config.tmp" ||
	die "$(basename "$deb") has no configuration of $1"
mv "$config.tmp" "$config"
echo "$config"
