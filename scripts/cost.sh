#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Instructions per operation on stock and on pte_ref, counted exactly by QEMU
# (icount), their ratio, and the limit of bench/limits. A ratio above its limit is
# a failure. The same kernels print the same figures on every run.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need gcc
out=$build/cost
mkdir -p "$out"
gcc -O2 -Wall -Wextra -Werror -static -o "$out/cost" "$top/bench/cost.c"

# One virtual CPU whose time stamp counter counts instructions, a page cleared by
# 512 of them.
for kernel in stock pte_ref; do
	step cost "counting instructions on $kernel"
	KERNEL=$kernel DEBUG='' ACCEL=tcg CPUS=1 MEM=1G NAME="cost-$kernel" TIMEOUT="${TIMEOUT:-600}" \
		RUN="'$out/cost'" APPEND="nokaslr norandmaps" \
		QEMU_OPTS="-accel tcg,thread=single -icount shift=0,sleep=off -cpu max,-erms,-fsrm" \
		"$top/scripts/boot.sh" >"$out/$kernel.tmp"
	mv "$out/$kernel.tmp" "$out/$kernel.txt"
	step_done
done

join <(sort "$out/stock.txt") <(sort "$out/pte_ref.txt") | join - <(sort "$top/bench/limits") |
	awk '{ bad = $3 > $2 * $4; failed += bad
		printf "%-16s %10d %10d %7.3f %6s %s\n", $1, $2, $3, $3 / $2, $4, bad ? "ABOVE" : "" }
	END { if (!NR) { print "no figures"; exit 1 } exit failed > 0 }' \
	FS=' ' >"$out/body" || status=$?
{
	printf '%-16s %10s %10s %7s %6s\n' operation stock pte_ref ratio limit
	cat "$out/body"
} | tee "$out/table.txt"
rm "$out/body"
exit "${status:-0}"
