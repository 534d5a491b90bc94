#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# faults-guest.sh KERNEL SECONDS STRESSOR...: what scripts/faults.sh runs in the guest. Fails
# if one of the stressors, or one of the operations below, did nothing, or met no allocation
# that failed, or read what it had not written, or if page tables, refs or notes are left.
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
stress=("$dir/ld-linux-x86-64.so.2" --library-path "$dir" "$dir/stress-ng" --metrics-brief
	--seed 1 --oomable --verify --timeout "$seconds" --vm-bytes 64M --temp-path "$dir")

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
counter()	# NAME, of /proc/vmstat
{
	awk -v name="$1" '$1 == name { print $2 }' /proc/vmstat
}
refused()	# so far
{
	echo $((2 * times - $(cat /sys/kernel/debug/failslab/times) -
		$(cat /sys/kernel/debug/fail_page_alloc/times)))
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
# What must grow meanwhile: THP splits, zaps that free, and tables that are noted.
echo always >/sys/kernel/mm/transparent_hugepage/enabled
counters=thp_split_pmd
[ "$kernel" = stock ] || counters+=' pte_ref_free pte_ref_free_deferred'
declare -A was
for c in $counters; do
	was[$c]=$(counter "$c")
done

# The most refs that there were at a time, in a file.
most_refs()
{
	local nr most=0
	while sleep 0.2; do
		nr=$(sed 's/ .*//' /sys/kernel/slab/pte_ref/objects)
		[ "$nr" -gt "$most" ] || continue
		most=$nr
		echo "$most" >most
	done
}
echo 0 >most
if [ "$kernel" = pte_ref ]; then
	most_refs &
	sampler=$!
fi

# All that they get would be all of the guest's memory.
ulimit -v 1000000
bytes=2000000 pages=3000 wrong=()
for s in fork fault madvise munmap mremap; do
	[[ " $* " == *" $s "* ]] || wrong+=("$s")
done
# stress-ng itself may be refused something before its stressor does anything.
for s; do
	for _ in 1 2 3 4 5; do
		before=$(refused)
		status=0
		said=$( (marked "${stress[@]}" "--$s" 2) 2>&1) || status=$?
		ops=$(sed -nE "s/.*metrc: .* $s +([0-9]+) .*/\1/p" <<<"$said")
		before=$(($(refused) - before))
		echo "$s: ${ops:-0} operations, $before allocations refused, status $status"
		# What it read is not what it wrote.
		! grep -E ' fail: .*(verif|mismatch|corrupt|incorrect|not match)' <<<"$said" || wrong+=("$s")
		[ "${ops:-0}" -eq 0 ] || [ $before -eq 0 ] || continue 2
	done
	wrong+=("$s")
done
if [ "$kernel" = pte_ref ]; then
	kill "$sampler"
	echo "refs: $(cat most) at most"
	[ "$(cat most)" -gt "$refs" ] || wrong+=(refs)
fi
failed=0 bytes=0 pages=0
for ((i = 0; i < 50 * seconds; i++)); do
	(marked "$dir/busybox" true) || failed=$((failed + 1))
done >/dev/null 2>&1
echo "exec: $failed of $i refused"
[ $failed -gt 0 ] && [ $failed -lt $i ] || wrong+=(exec)
for c in $counters; do
	echo "$c: $(($(counter "$c") - was[$c]))"
	[ "$(counter "$c")" -gt "${was[$c]}" ] || wrong+=("$c")
done

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
[ $i -lt 100 ] || wrong+=(left)
injected=
for f in failslab fail_page_alloc; do
	n=$((times - $(cat /sys/kernel/debug/$f/times)))
	injected+=" $f $n,"
	[ $n -gt 100 ] || wrong+=("$f")
done
echo "injected:$injected left: $left page tables, $refs_left refs, $notes_left notes"
[ ${#wrong[@]} -eq 0 ] || echo "not what it should be: ${wrong[*]}"
[ ${#wrong[@]} -eq 0 ]
