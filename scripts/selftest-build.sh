#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# selftest-build.sh NAME: builds tools/testing/selftests/mm/NAME.c, which runs in a
# guest without libraries, as BUILD/selftest/NAME.
set -euo pipefail
words='NAME'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

name=$1
src=$build/src/pte_ref
out=$build/selftest
mm=tools/testing/selftests/mm
logfile=$build/log/$name.build.log

[ -f "$src/Makefile" ] || die "no source: run make source"
need make gcc
lock selftest-build
mkdir -p "$out" "$build/log"

step selftest "build $name"
kmake -C "$src" O="$out/headers" ARCH=x86 headers </dev/null >"$logfile" 2>&1 ||
	die "no kernel headers, see $logfile"
gcc -static -O2 -Wall -Wextra -Wno-sign-compare -isystem "$out/headers/usr/include" \
	-I "$src/tools/testing/selftests" -I "$src/$mm" -o "$out/$name.tmp" \
	"$src/$mm/$name.c" "$src/$mm/vm_util.c" -lpthread
mv "$out/$name.tmp" "$out/$name"
step_done
