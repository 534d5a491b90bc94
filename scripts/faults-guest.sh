#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# faults-guest.sh KERNEL SECONDS STRESSOR...: what scripts/faults.sh runs in the guest. Fails
# if little was refused, if less than half of the stressors ran that long, or if page
# tables or refs are left.
set -euo pipefail
kernel=$1
seconds=$2
shift 2
dir=$(mktemp -d)
cd "$dir"
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
times=1000000

# A copy in memory: the file system of the guest's root does not get over a failure.
cp "$(command -v busybox)" "$(command -v stress-ng)" .
ldd stress-ng | sed -nE 's,.*(=>|^)[[:space:]]*(/[^ ]*) .*,\2,p' | xargs cp -Lt .
stress=("$dir/ld-linux-x86-64.so.2" --library-path "$dir" "$dir/stress-ng" --quiet --seed 1
	--oomable --timeout "$seconds" --vm-bytes 64M --temp-path "$dir")

# marked COMMAND...: allocations of it may fail, and of what it starts, but for so many
# bytes and pages, with which it starts.
marked()
{
	echo "$bytes" >/sys/kernel/debug/failslab/space
	echo "$pages" >/sys/kernel/debug/fail_page_alloc/space
	echo 1 >/proc/self/make-it-fail
	exec "$@"
}

tables()	{ awk '$1 == "nr_page_table_pages" { print $2 }' /proc/vmstat; }
refs()	# in use, without those that each CPU keeps
{
	local slab=/sys/kernel/slab/pte_ref
	[ "$kernel" = pte_ref ] || {
		echo 0
		return
	}
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
	# Those of users, and of percpu memory.
	[ ! -f ignore-gfp-highmem ] || echo 0 >ignore-gfp-highmem
	echo $times >./times
done
echo 1 >/sys/kernel/debug/failslab/probability
echo 1 >/sys/kernel/debug/fail_page_alloc/probability
cd "$dir"
tables=$(tables) refs=$(refs)

# All that they get would be all of the guest's memory.
ulimit -v 1000000
ran=0 bytes=2000000 pages=3000
for s; do
	status=0 start=$SECONDS
	(marked "${stress[@]}" "--$s" 2) >/dev/null 2>&1 || status=$?
	echo "$s: status $status, $((SECONDS - start)) s"
	[ $((SECONDS - start)) -lt "$seconds" ] || ran=$((ran + 1))
done
failed=0 bytes=0 pages=0
for ((i = 0; i < 50 * seconds; i++)); do
	(marked "$dir/busybox" true) >/dev/null 2>&1 || failed=$((failed + 1))
done
echo "exec: $failed of $i refused"

echo 0 >/sys/kernel/debug/failslab/probability
echo 0 >/sys/kernel/debug/fail_page_alloc/probability
for ((i = 0; i < 100; i++)); do
	left=$(($(tables) - tables))
	[ $left -gt 100 ] || [ "$(refs)" -gt "$refs" ] || break
	sleep 0.3
done
injected=
for f in failslab fail_page_alloc; do
	n=$((times - $(cat /sys/kernel/debug/$f/times)))
	injected+=" $f $n,"
	[ $n -gt 100 ] || i=100
done
echo "injected:$injected $ran of $# ran; page tables left: $left, refs: $refs, then $(refs)"
[ $i -lt 100 ] && [ $ran -gt $(($# / 2)) ]
