#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# faults-guest.sh SECONDS STRESSOR...: what scripts/faults.sh runs in the guest. Fails if
# nothing was refused, or if page tables or refs are left.
set -euo pipefail
seconds=$1
shift
cd /tmp
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
times=1000000

tables()	{ awk '$1 == "nr_page_table_pages" { print $2 }' /proc/vmstat; }
refs()	# in use, without those that each CPU keeps
{
	local slab=/sys/kernel/slab/pte_ref
	[ -d $slab ] || return 0
	echo 1 >$slab/shrink
	sed 's/ .*//' $slab/objects
}

# Only what is marked below is refused, and what it starts. Allocations that may sleep too.
for f in failslab fail_page_alloc; do
	cd /sys/kernel/debug/$f
	echo Y >task-filter
	echo 0 >verbose
	echo 0 >ignore-gfp-wait
	[ ! -f min-order ] || echo 0 >min-order
	echo $times >./times
done
echo 2 >/sys/kernel/debug/failslab/probability
echo 1 >/sys/kernel/debug/fail_page_alloc/probability
cd /tmp
tables=$(tables) refs=$(refs)

# All that they get would be all of the guest's memory.
ulimit -v 1000000
for s; do
	status=0
	(
		echo 1 >/proc/self/make-it-fail
		exec timeout -k 5 $((seconds * 2 + 20)) stress-ng --quiet --seed 1 --oomable \
			--timeout "$seconds" "--$s" 2 --vm-bytes 64M --temp-path /tmp
	) >/dev/null 2>&1 || status=$?
	echo "$s: status $status"
done

echo 0 >/sys/kernel/debug/failslab/probability
echo 0 >/sys/kernel/debug/fail_page_alloc/probability
for ((i = 0; i < 100; i++)); do
	left=$(($(tables) - tables))
	[ $left -gt 100 ] || [ "$(refs)" != "$refs" ] || break
	sleep 0.3
done
injected=
for f in failslab fail_page_alloc; do
	n=$((times - $(cat /sys/kernel/debug/$f/times)))
	injected+=" $f $n,"
	[ $n -gt 100 ] || left="$f refused $n"
done
echo "injected:$injected page tables left: $left, refs: ${refs:-none}, then $(refs)"
[ $i -lt 100 ] && [ "$left" -le 100 ]
