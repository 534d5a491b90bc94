#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# faults-guest.sh SECONDS STRESSOR...: what scripts/faults.sh runs in the guest. Fails if
# nothing was refused, or if page tables or refs are left.
set -euo pipefail
seconds=$1
shift
dir=$(mktemp -d)
cd "$dir"
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
times=1000000

# A copy in memory: the file system of the guest's root does not get over a failure.
cp "$(command -v busybox)" "$(command -v stress-ng)" .
ldd stress-ng | sed -nE 's,.*(=>|^)[[:space:]]*(/[^ ]*) .*,\2,p' | xargs cp -Lt .
stress=("$dir/ld-linux-x86-64.so.2" --library-path "$dir" "$dir/stress-ng" --quiet --seed 1
	--oomable --timeout "$seconds" --vm-bytes 64M --temp-path "$dir")

# marked COMMAND...: allocations of it may fail, and of what it starts.
marked()
{
	echo 1 >/proc/self/make-it-fail
	exec "$@"
}

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
cd "$dir"
tables=$(tables) refs=$(refs)

# All that they get would be all of the guest's memory.
ulimit -v 1000000
for s; do
	status=0
	(marked "${stress[@]}" "--$s" 2) >/dev/null 2>&1 || status=$?
	echo "$s: status $status"
done
failed=0
for ((i = 0; i < 50 * seconds; i++)); do
	(marked "$dir/busybox" true) >/dev/null 2>&1 || failed=$((failed + 1))
done
echo "exec: $failed of $i refused"

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
