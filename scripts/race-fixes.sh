#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs pte_ref_race on Linux with the first part of the series only, the fixes that stand
# alone: what CONFIG_PT_RECLAIM takes away there must not be missed. TIME: seconds for
# each group of callers. WITHOUT=1 leaves the fixes out, to see what fails then.
set -euo pipefail
options='TIME WITHOUT'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

dir=$build/fixes${WITHOUT:+-without}
src=$dir/src/stock
lock race-fixes

[ -f "$build/src/stock.stamp" ] || die "no source: run make source"
[ -f "$top/patches/parts" ] || die "patches/parts is missing"
last=$(sed -e 's/#.*//' -e '/^ *$/d' "$top/patches/parts" | awk 'NR == 2 { print $2 }')
need_space "$build" 3000

step race-fixes "${WITHOUT:+without }the part fixes"
rm -rf "$src.tmp"
mkdir -p "$dir/src"
# By links: patch replaces a file that it changes.
cp -al "$build/src/stock" "$src.tmp"
if [ -z "${WITHOUT:-}" ]; then
	done=
	while read -r p; do
		if [[ $p == */"$last" || $p == */[0-9][0-9][0-9][0-9]-"$last" ]]; then
			done=1
			break
		fi
		patch -d "$src.tmp" -p1 -s -f --posix <"$p" || die "$p does not apply"
	done < <(series_patches)
	[ -n "$done" ] || die "patches/parts names $last, which the series has not"
fi
rm -rf "$src" "$dir"/kernel*
mv "$src.tmp" "$src"
cp "$build/src/stock.stamp" "$dir/src/"
step_done

# Laid out as BUILD, so that the cache knows what did not change.
BUILD=$dir KERNEL=stock DEBUG=0 "$top/scripts/kernel.sh"
IMAGE=$(build=$dir kernel_image stock 0) KERNEL=stock DEBUG=0 TIME=${TIME:-5} \
	"$top/scripts/race.sh"
