#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# guest.sh PART BIN [ARGUMENT...]: a part of make bench, inside a guest. Prints lines
# of row and figure.
#   count [ROW...]        instructions per operation, one CPU and icount; and what may
#                         grow with the number of possible CPUs
#   threads               the same of two threads on two CPUs that take turns
#   turns ROW...          operations per second of such CPUs, of 1,000,000,000 instructions;
#                         ROW is LOOP_tN_turns (threads) or LOOP_pN_turns (processes)
#   wall ROUNDS SECONDS ROW...
#                         time until the memory of an empty table is free, the longest
#                         fault beside a zap, operations per second, two CPUs; ROW is
#                         LOOP_tN (threads) or LOOP_pN (processes)
#   perf FILE ROW...      text of perf stat; FILE.data gets samples of the first row, FILE.txt
#                         what perf report says of them
#   mem                   text of perf bench mem
set -euo pipefail

[ $# -ge 2 ] || {
	echo "usage: guest.sh PART BIN [ARGUMENT...]" >&2
	exit 2
}
part=$1
# In memory: a program that is executed must not be read from the host.
mount -t tmpfs none /mnt
cp "$2"/* /mnt/
shift 2
mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug

say()	# ROW COMMAND...: what it prints is the figure
{
	local row=$1 figure
	shift
	figure=$("$@")
	echo "$row $figure"
}

flushes()	# ROW: times that the TLB was flushed while it ran
{
	perf stat -x, -o /mnt/flushes -e tlb:tlb_flush /mnt/ops "$1" >/dev/null
	sed -n 's/,.*tlb:tlb_flush.*//p' /mnt/flushes
}

case $part in
count)
	possible=$(</sys/devices/system/cpu/possible)
	possible=$((${possible#*-} + 1))
	if [ $# -gt 0 ]; then
		truncate -s 64M /mnt/swap
		swap=$(losetup -f --show /mnt/swap)
		mkswap -q "$swap"
		swapon "$swap"
		/mnt/ops "$@"
		if [ "$(uname -m)" = x86_64 ]; then
			say "zap_flushes_$possible" flushes zap_table
		else
			echo "zap_flushes: skipped, no event tells of a flush" >&2
		fi
	fi
	/mnt/ops first_touch | sed "s/ /_$possible /"
	say "memory_$possible" /mnt/memory
	;;
threads)
	/mnt/ops threads_one threads_many threads_file threads_gup threads_gup_percpu
	;;
turns)
	for row; do
		row=${row%_turns}
		# How the turns fall is chance, so the most of three.
		for _ in 1 2 3; do
			/mnt/will "-${row: -2:1}" "${row: -1}" -s 1 "${row%_*}"
		done | sort -k 2 -rn | head -n 1 | sed 's/ /_turns /'
	done
	;;
wall)
	rounds=$1 seconds=$2
	shift 2
	say time_to_free /mnt/latency "$rounds"
	say time_to_free_percpu /mnt/latency "$rounds" percpu
	say fault_beside_zap /mnt/latency 7 beside
	[ "$rounds" -lt 20 ] || /mnt/latency 65536 walk
	for row; do
		/mnt/will "-${row: -2:1}" "${row: -1}" -s "$seconds" "${row%_*}"
	done
	;;
perf)
	file=$1
	shift
	for row; do
		perf stat -r 5 -e task-clock /mnt/ops "$row" 2>&1
	done
	# The symbols of this kernel are kept beside the samples.
	HOME=$(dirname "$file")
	export HOME
	perf record -q -e cpu-clock -F 20000 -o /mnt/perf.data /mnt/ops -r 100 "$1" >&2
	cp /mnt/perf.data "$file.data"
	perf report --stdio -i /mnt/perf.data >"$file.txt"
	;;
mem)
	perf bench mem memset -s 64MB -l 10
	;;
*)
	echo "guest.sh: no part is called $part" >&2
	exit 2
	;;
esac
