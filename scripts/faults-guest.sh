#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# faults-guest.sh KERNEL SECONDS STRESSOR...: what scripts/faults.sh runs in the guest. Fails
# if little was refused, if less than half of the stressors ran that long, if pte_ref freed
# no tables meanwhile, or if page tables, refs or notes are left.
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

# Page tables that no process has. A VmPTE is without the PGD.
tables()
{
	echo 1 >/proc/sys/vm/stat_refresh
	cat /proc/vmstat /proc/[0-9]*/status 2>/dev/null | awk -v kb="$(($(getconf PAGESIZE) / 1024))" '
		$1 == "nr_page_table_pages" { nr = $2 }
		$1 == "VmPTE:" { nr -= $2 / kb }
		END { print nr }'
}
# objects CACHE: in use, without those that each CPU keeps
objects()
{
	local slab=/sys/kernel/slab/$1
	[ "$kernel" = pte_ref ] || {
		echo 0
		return
	}
	echo 1 >"$slab/shrink"
	sed 's/ .*//' "$slab/objects"
}
freed()	# at once and by the deferred work
{
	awk '/^pte_ref_free(_deferred)? / { printf "%s ", $2 } END { print "" }' /proc/vmstat
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
tables=$(tables) refs=$(objects pte_ref) notes=$(objects pte_ref_notes)
read -r at_once deferred < <(freed)

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
	refs_left=$(($(objects pte_ref) - refs))
	notes_left=$(($(objects pte_ref_notes) - notes))
	# PGDs: of the processes, or borrowed by a CPU since they are gone. Notes: of the processes.
	[ $left -gt 8 ] || [ $refs_left -gt 0 ] || [ $notes_left -gt 2 ] || break
	sleep 0.3
done
injected=
for f in failslab fail_page_alloc; do
	n=$((times - $(cat /sys/kernel/debug/$f/times)))
	injected+=" $f $n,"
	[ $n -gt 100 ] || i=100
done
echo "injected:$injected $ran of $# ran; left: $left page tables, $refs_left refs, $notes_left notes"
[ $i -lt 100 ] && [ $ran -gt $(($# / 2)) ] && [ $failed -gt 0 ] || exit 1
[ "$kernel" = pte_ref ] || exit 0
read -r at_once_now deferred_now < <(freed)
echo "freed: $((at_once_now - at_once)) at once, $((deferred_now - deferred)) later"
[ "$at_once_now" -gt "$at_once" ] && [ "$deferred_now" -gt "$deferred" ]
