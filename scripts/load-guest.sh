#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# load-guest.sh SECONDS 'STRESSOR...' 'SEED...' PROGRAM ARGUMENT...: what scripts/load.sh runs
# in the guest. Swap on a loop device and memory that go and come, KSM and NUMA balancing that
# do something within seconds, fault injection that frees a table where code maps it; the
# program, with each seed; then stress-ng, each stressor for so many seconds.
set -u
seconds=$1
read -ra stressors <<<"$2"
read -ra seeds <<<"$3"
shift 3
# /tmp has what the host's has.
dir=$(mktemp -d) && cd "$dir" || exit 1

set_to()	# DIR, then NAME VALUE...
{
	local dir=$1
	shift
	while [ $# -gt 0 ]; do
		echo "$2" >"$dir/$1" || echo "# not set: $dir/$1"
		shift 2
	done
}

mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
swap=$("$(dirname "$0")/guest-swap.sh" 256) || exit 1
set_to /sys/kernel/mm/ksm sleep_millisecs 20 pages_to_scan 1000 run 1
set_to /sys/kernel/debug/sched/numa_balancing scan_delay_ms 100 scan_period_min_ms 50 \
	scan_period_max_ms 200
set_to /proc/sys/kernel numa_balancing 1
# Else a node with few pages of files or slabs reclaims nothing when it is told to.
set_to /proc/sys/vm min_unmapped_ratio 0 min_slab_ratio 0

inject()	# NAME VALUE...
{
	[ ! -d /sys/kernel/debug/fail_pte_table ] || set_to /sys/kernel/debug/fail_pte_table "$@"
}

# What is not of ZONE_MOVABLE may have to stay.
movable()
{
	grep -lx Movable /sys/devices/system/memory/memory*/valid_zones | xargs -r -n 1 dirname
}

# The memory of a block goes elsewhere, also that of the program. What is in use for long may
# keep the first of them.
unplug()
{
	local block
	for block in $(movable); do
		timeout 5 sh -c "echo offline >$block/state" 2>/dev/null || continue
		echo "# hotplug: $(basename "$block") was away"
		echo online_movable >"$block/state"
		return
	done
}

inject delay-us 20 times -1
freed()
{
	awk '$1 == "pte_ref_free" { n = $2 } END { print n + 0 }' /proc/vmstat
}
# What the injection frees counts as a zap's: first a zap of the program's must free a table.
cycle()
{
	local before
	before=$(freed)
	while [ -d /sys/kernel/debug/fail_pte_table ] && [ "$(freed)" -eq "$before" ] && [ ! -e stop ]; do
		sleep 0.1
	done
	inject probability 5
	while sleep 2 && [ ! -e stop ]; do
		inject mapped 1
		swapoff "$swap" && echo "# swap was off"
		swapon "$swap"
		unplug
		sleep 1
		inject mapped 0
	done
}

# It starts when all is on.
for s in "${seeds[@]}"; do
	rm -f stop
	inject probability 0
	cycle &
	cycle=$!
	"$@" -s "$s"
	echo "# load, seed $s: status $?"
	touch stop
	wait $cycle
	grep -q "^$swap " /proc/swaps || swapon "$swap"
done
inject probability 0

# For those that take all that they get.
ulimit -v 1000000
# One that it refuses has the status 0 too. On a slow machine one may need more time to do
# anything, and mmap, which maps each page by itself, fewer pages.
stress()	# STRESSOR
{
	local said status more as=()
	# With that right it poisons memory that its other threads use, and may die of it, also on
	# stock. The program has poisoned memory already.
	[ "$1" != madvise ] || as=(setpriv --bounding-set=-sys_admin)
	for more in 1 5 20; do
		said=$("${as[@]}" stress-ng --metrics-brief --seed 1 --timeout $((more * seconds)) "--$1" 2 \
			--vm-bytes 128M --mmap-bytes 8M --temp-path "$dir" 2>&1)
		status=$?
		grep -q "metrc: .* $1  *[1-9]" <<<"$said" && break
	done
	echo "# stress-ng: $1: status $status"
	[ $status -eq 0 ] || printf "%s\n" "$said" | sed "s/^/# $1: /"
	grep -q "metrc: .* $1  *[1-9]" <<<"$said" || echo "# stress-ng: $1: did nothing"
}
[ "$seconds" = 0 ] || for s in "${stressors[@]}"; do
	stress "$s"
done
swapoff "$swap"
echo "# swapoff: status $?"
