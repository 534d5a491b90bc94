#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# selftest-build.sh NAME: builds tools/testing/selftests/mm/NAME.c, which runs in a
# guest without libraries, as BUILD/selftest/ARCH/NAME.
set -euo pipefail
options='ARCH'
words='NAME'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -eq 1 ] || die "one program at a time"
name=$1
src=$build/src/pte_ref
out=$build/selftest/$arch
mm=tools/testing/selftests/mm
logfile=$build/log/$name-$arch.build.log

[ -f "$src/Makefile" ] || die "no source: run make source"
need make "${cross}gcc"
lock selftest-build
mkdir -p "$out" "$build/log"

step selftest "build $name"
kmake -C "$src" O="$out/headers" ARCH=$srcarch headers </dev/null >"$logfile" 2>&1 ||
	die "no kernel headers, see $logfile"
"${cross}gcc" -static -O2 -Wall -Wextra -Wno-sign-compare -isystem "$out/headers/usr/include" \
	-I "$src/tools/testing/selftests" -I "$src/$mm" -o "$out/$name.tmp" \
	"$src/$mm/$name.c" "$src/$mm/vm_util.c" -lpthread
mv "$out/$name.tmp" "$out/$name"
step_done
