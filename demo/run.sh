#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the same workloads in stock Linux and in Linux with pte_ref and sets the page
# tables that they hold side by side: BUILD/demo[-ARCH]/table.txt, table.md, vmpte.png.
# SCALE=full takes the 50 GiB of the original report.
set -euo pipefail
options='ARCH PAGES SCALE'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

case ${SCALE:-default} in
default) gib_a=4 gib_b=2 keys=40000 timeout=600 ;;
full) gib_a=50 gib_b=50 keys=160000 timeout=3600 ;;
*) die "SCALE=$SCALE: must be default or full" ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
work=$build/demo$flavour.tmp
case $pages in
64k*) mem=6G ;;
*) mem=3G ;;
esac
need make
lock demo

for k in stock pte_ref; do
	make -s --no-print-directory -C "$top" kernel KERNEL=$k
done
need "${cross}gcc" gnuplot
[ -n "$cross" ] || need redis-server redis-cli setarch

rm -rf "$work"
mkdir -p "$work/bin"
for p in loop needed refill sample; do
	"${cross}gcc" -O2 -static -Wall -Wextra -Werror -o "$work/bin/$p" "$here/$p.c" ||
		die "cannot build demo/$p.c"
done
echo "GIB_A=$gib_a GIB_B=$gib_b KEYS=$((16 * keys))" >"$work/sizes"

trap 'exit 130' INT
start=$SECONDS
boot()	# KERNEL
{
	KERNEL=$1 NAME=demo-$1 MEM=$mem CPUS=2 TIMEOUT=$(patience $timeout) RWDIR=$work \
		RUN=$(printf '%q ' "$here/guest.sh" "$1" "$work/bin" "$work" $gib_a $gib_b $keys) \
		"$top/scripts/boot.sh"
}

rm -f "$build/slowness"
for k in stock pte_ref; do
	log "[demo] $k: booting"
	run_guest "$work/$k.said" boot $k || die "$k: the workloads failed, see above"
	cp "$build/log/console-demo-$k$flavour.log" "$work/$k.console"
	log "[demo] $k: all workloads done, $((SECONDS - start)) s so far"
done

status=0
"$here/report.sh" "$work" || status=$?
[ $status -eq 0 ] || [ $status -eq 2 ] || exit $status
rm -rf "$build/demo$flavour"
mv "$work" "$build/demo$flavour"
log "[demo] table.txt, table.md and vmpte.png are in $build/demo$flavour"
[ $status -eq 0 ] || die "a check failed, see above"
