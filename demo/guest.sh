#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# guest.sh KERNEL BIN OUT GIB_A GIB_B KEYS: the workloads of the demo, inside a
# guest. Figures go to OUT/KERNEL.tsv as lines of workload, figure, value; the
# course of VmPTE goes to OUT/KERNEL-WORKLOAD.csv.
set -euo pipefail
words='KERNEL BIN OUT GIB_A GIB_B KEYS'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

[ $# -eq 6 ] || die "usage: guest.sh KERNEL BIN OUT GIB_A GIB_B KEYS"
kernel=$1 bin=$2 out=$3 gib_a=$4 gib_b=$5 keys=$6
databases=16
# Of a page, and so of a table.
page_kb=$(awk '/^KernelPageSize:/ { print $2; exit }' /proc/self/smaps)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

put()	# WORKLOAD FIGURE VALUE
{
	printf '%s\t%s\t%s\n' "$@" >>"$out/$kernel.tsv"
}

kb()	# FILE KEY: the figure of a "KEY: N kB" line
{
	awk -v key="$2:" '$1 == key { print $2; found = 1 } END { exit !found }' "$1"
}

# What page tables cost the whole system, bookkeeping included.
put_system()	# WORKLOAD
{
	local slab
	# Per-CPU deltas of vmstat, folded into the totals.
	echo 1 >/proc/sys/vm/stat_refresh
	put "$1" tables "$(awk -v kb="$page_kb" '$1 == "nr_page_table_pages" { print $2 * kb }' /proc/vmstat)"
	slab=$(awk -v page="$page_kb" '/^pte_ref/ { kb += $15 * $6 * page; found = 1 }
		END { if (found) print kb }' /proc/slabinfo)
	case $kernel:$slab in
	stock:) slab=0 ;;
	stock:*) die "/proc/slabinfo has a cache pte_ref: this kernel is not stock" ;;
	*:) die "/proc/slabinfo has no cache pte_ref: this kernel is not $kernel" ;;
	esac
	put "$1" slab "$slab"
	put "$1" percpu "$(kb /proc/meminfo Percpu)"
}

put_process()	# WORKLOAD PID
{
	local need room
	put "$1" virt "$(kb "/proc/$2/status" VmSize)"
	put "$1" res "$(kb "/proc/$2/status" VmRSS)"
	put "$1" end "$(kb "/proc/$2/status" VmPTE)"
	read -r need _ room < <("$bin/needed" "$2")
	put "$1" needed $((page_kb * (need + room)))
	put_system "$1"
}

loop()	# WORKLOAD GIB PIECE_KIB
{
	local pid in peak
	# Sizes for pages of 4 KiB, see loop.c.
	step "$kernel" "$1: $2 GiB, MADV_DONTNEED in pieces of $3 KiB"
	coproc LOOP { exec "$bin/loop" "$2" "$3" "$out/$kernel-$1.csv"; }
	pid=$LOOP_PID in=${LOOP[1]}
	read -r peak <&"${LOOP[0]}" || die "loop of $1 failed"
	put "$1" top "$peak"
	put_process "$1" "$pid"
	exec {in}>&-
	wait "$pid"
	step_done
}

# By faults: what khugepaged makes depends on when it comes by.
huge_pages()	# MODE
{
	echo 1 >/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan
	echo "$1" >/sys/kernel/mm/transparent_hugepage/enabled
}

# What of memory that was given back in pieces is used again, where huge pages may be had.
refill()	# WORKLOAD MODE [advise]
{
	local in rss_top huge_top pte_top rss purged_huge pte res huge end
	step "$kernel" "$1: 256 MiB given back in pieces of 64 KiB, a page of each 2 MiB touched"
	huge_pages "$2"
	coproc REFILL { exec "$bin/refill" ${3:+"$3"}; }
	in=${REFILL[1]}
	read -r rss_top huge_top pte_top rss purged_huge pte res huge end <&"${REFILL[0]}" ||
		die "refill of $1 failed"
	put "$1" res_top "$rss_top"
	put "$1" huge_top "$huge_top"
	put "$1" purged "$pte"
	put "$1" res "$res"
	put "$1" huge "$huge"
	log "[$kernel] $1: $pte_top kB of tables at the top, $end in the end; $rss kB, $purged_huge kB huge between"
	exec {in}>&-
	wait "$REFILL_PID"
	huge_pages madvise
	step_done
}

# With "refill" as the second argument: huge pages, and a quarter of the keys once more.
redis()	# WORKLOAD [refill] VARIABLE=VALUE...
{
	local name=$1 log=$out/$kernel-$1.log pid sampler i rss top tables need upper
	local cli=(redis-cli -e -s "$dir/socket") refill='' thp=yes keys=$keys same=()
	shift
	if [ "${1:-}" = refill ]; then
		# Where the heap starts in a range of 2 MiB decides about a few of them.
		refill=1 thp=no keys=$((keys / 2)) same=(setarch -R)
		shift
		huge_pages always
	fi
	step "$kernel" "$name: redis-server, $((databases * keys)) keys"
	env "$@" "${same[@]}" redis-server --port 0 --unixsocket "$dir/socket" --dir "$dir" \
		--databases $databases --save '' --appendonly no --disable-thp $thp \
		--enable-debug-command yes >"$log" 2>&1 &
	pid=$!
	for ((i = 0; ; i++)); do
		"${cli[@]}" ping >/dev/null 2>&1 && break
		[ $i -lt 100 ] || die "redis-server does not answer, see $log"
		sleep 0.1
	done
	case $* in
	*LD_PRELOAD=*)
		grep -q libtcmalloc "/proc/$pid/maps" || die "LD_PRELOAD had no effect, see $log" ;;
	esac
	"$bin/sample" $pid "$out/$kernel-$name.csv" &
	sampler=$!

	# One database after the other, so that the first objects freed, which
	# an allocator keeps in its caches, are neighbours.
	for ((i = 0; i < databases; i++)); do
		"${cli[@]}" -n $i debug populate "$keys" key 300 >/dev/null
	done
	rss=$(kb /proc/$pid/status VmRSS)
	top=$(kb /proc/$pid/status VmPTE)
	read -r _ upper _ < <("$bin/needed" $pid)
	tables=$((top / page_kb - upper))
	put "$name" top "$top"
	put "$name" pte_top $tables
	log "[$kernel] filled: RES $rss kB, VmPTE $top kB"

	"${cli[@]}" flushall sync >/dev/null
	"${cli[@]}" memory purge >/dev/null
	for ((i = 0; ; i++)); do
		[ "$(kb /proc/$pid/status VmRSS)" -lt $((rss / 2)) ] && break
		[ $i -lt 60 ] || die "redis-server under $name kept its memory: RES $(kb /proc/$pid/status VmRSS) of $rss kB"
		sleep 0.5
	done
	sleep 1
	put_process "$name" $pid
	read -r need _ < <("$bin/needed" $pid)
	if [ -n "$refill" ]; then
		for ((i = 0; i < databases; i++)); do
			"${cli[@]}" -n $i debug populate $((keys / 4)) key 300 >/dev/null
		done
		put "$name" res_refilled "$(kb /proc/$pid/status VmRSS)"
		put "$name" huge "$(kb /proc/$pid/smaps_rollup AnonHugePages)"
		huge_pages madvise
	else
		# Of 64 KiB it may have one that maps all of its memory.
		[ $tables -gt "$need" ] || [ "$page_kb" -gt 4 ] ||
			die "no table of redis-server became empty"
		put "$name" empty $((tables > need ? tables - need : 0))
	fi

	kill $pid
	wait $pid || die "redis-server failed, see $log"
	wait $sampler
	case $* in
	*MALLOCSTATS=*)
		# What tcmalloc itself says about it when the server ends, or a program that it starts.
		i=$(awk '/Bytes released to OS/ && $3 > most { most = $3 } END { print int(most / 1024) }' "$log")
		log "[$kernel] tcmalloc released $i kB to the system"
		[ "${i:-0}" -gt $((rss / 2)) ] || die "tcmalloc released too little, see $log" ;;
	esac
	step_done
}

: >"$out/$kernel.tsv"
put all page "$page_kb"
echo 1 >/proc/sys/vm/overcommit_memory
put_system idle
loop a "$gib_a" 2048
loop b64 "$gib_b" 64
loop b4 "$gib_b" 4
redis jemalloc
redis tcmalloc LD_PRELOAD=libtcmalloc_minimal.so.4 \
	TCMALLOC_AGGRESSIVE_DECOMMIT=1 MALLOCSTATS=1
refill thp_always always
refill thp_madvise madvise advise
redis jemalloc_thp refill
redis tcmalloc_thp refill LD_PRELOAD=libtcmalloc_minimal.so.4 \
	TCMALLOC_AGGRESSIVE_DECOMMIT=1 MALLOCSTATS=1
# Read by report.sh: all workloads came to their end.
put all complete 1
