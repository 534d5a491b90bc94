#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the programs of bench/ in stock Linux and in Linux with pte_ref and sets what they
# cost side by side: BUILD/bench[-ARCH]/table.txt, table.md, bench.csv, bench.png. Fails if a
# row is above its limit in bench/limits or has no figure. QUICK=1 has fewer rows and
# rounds.
set -euo pipefail
options='ARCH PAGES QUICK'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

case ${QUICK:-0} in
0) run=full counts=2 rounds=5 frees=20 seconds=1 possible='64 255' limit=2000 ;;
1) run=quick counts=1 rounds=3 frees=7 seconds=1 possible=255 limit=600 ;;
*) die "QUICK=$QUICK: must be 1 or not be there" ;;
esac
# Possible CPUs beside 2; 255 is the most without x2APIC, which QEMU does not emulate.
read -ra possible <<<"$possible"
work=$build/bench$flavour.tmp
lock bench
need "${cross}gcc" gnuplot perf

# rows MEASURE: the rows of this run.
rows()
{
	awk -v run=$run -v measure="$1" -v arch="$arch" '$2 == measure && ($6 == "all" || $6 == run) &&
			!(arch == "arm64" && $5 == "-") { print $1 }' \
		"$top/bench/limits"
}

# An ACPI table that says how many CPUs there are, in the place of QEMU's: those
# that are said to be there and are not are never started.
madt()	# CPUS
{
	local i id
	printf '\x00\x00\xe0\xfe\x01\x00\x00\x00'
	for ((i = 0; i < $1; i++)); do
		printf -v id '\\x%02x' "$i"
		printf '\x00\x08%b%b\x01\x00\x00\x00' "$id" "$id"
	done
	# The I/O APIC, the timer on its input 2, interrupts of ACPI and PCI, the NMI.
	printf '\x01\x0c\x00\x00\x00\x00\xc0\xfe\x00\x00\x00\x00'
	printf '\x02\x0a\x00\x00\x02\x00\x00\x00\x00\x00'
	for i in '\x05' '\x09' '\x0a' '\x0b'; do
		printf '\x02\x0a\x00%b%b\x00\x00\x00\x0d\x00' "$i" "$i"
	done
	printf '\x04\x06\xff\x00\x00\x01'
}

# What bench/guest.sh prints. A guest that hung before it came to that, as virtual CPUs
# on a busy host may at boot, is booted again, once; so is one that QEMU broke.
guest()	# KERNEL NAME ARGUMENT...
{
	local kernel=$1 name=$2 part=$3 status try
	shift 3
	for try in 1 2 3; do
		status=0
		KERNEL=$kernel DEBUG='' NAME="bench-$name-$kernel" TIMEOUT=$(patience "$limit") RWDIR=$work \
			RUN=$(printf '%q ' "$top/bench/guest.sh" "$part" "$work/bin" "$@") \
			"$top/scripts/boot.sh" >"$work/said-$kernel" || status=$?
		case $status in
		124)
			if [ -s "$work/said-$kernel" ] || [ "$try" -gt 1 ]; then
				break
			fi ;;
		126) ;;
		*) break ;;
		esac
		log "[bench] $kernel: once more"
	done
	[ $status -eq 0 ] || die "$name on $kernel failed, see above"
	"$top/scripts/check-log.sh" "$build/log/console-bench-$name-$kernel$flavour.log" ||
		die "$name on $kernel: the kernel warned, see above"
	cat "$work/said-$kernel"
}

# The counter of the CPU counts instructions; x86_64 clears a page by 512 of them.
icount="-accel tcg,thread=single -icount shift=0,sleep=off"
case $arch in
x86_64) cpu=max,-erms,-fsrm ;;
arm64) cpu=max,pauth-impdef=on,cntfrq=1000000000 ;;
esac

exact()	# POSSIBLE KERNEL NAME ARGUMENT...: one CPU of so many
{
	local table=$work/madt-$1-$2 append="nokaslr norandmaps maxcpus=1"
	case $arch in
	x86_64)
		madt "$1" >"$table"
		ACCEL=tcg CPU=$cpu CPUS=1 APPEND="$append acpi_apic_instance=2" \
			QEMU_OPTS="$icount -acpitable sig=APIC,rev=1,data=$table" guest "${@:2}" ;;
	arm64)
		ACCEL=tcg CPU=$cpu CPUS=$1 APPEND=$append \
			QEMU_OPTS="$icount -M virt,gic-version=3" guest "${@:2}" ;;
	esac
}

exact_two()	# KERNEL NAME ARGUMENT...: two CPUs that take turns
{
	ACCEL=tcg CPU=$cpu CPUS=2 APPEND="nokaslr norandmaps" QEMU_OPTS=$icount guest "$@"
}

# Two CPUs that run at the same time.
parallel()	# KERNEL NAME ARGUMENT...
{
	CPUS=2 APPEND='' QEMU_OPTS='' guest "$@"
}

keep()	# KERNEL ROUND: the lines of row and figure that a guest said are kept
{
	awk -v start="$1 $2" '{ print start, $0 }' "$work/lines-$1" >>"$work/figures"
}

# both ROUND WHAT COMMAND...: on one kernel, then on the other. KERNEL in the
# command is the kernel.
both()
{
	local round=$1 what=$2 kernel
	shift 2
	for kernel in stock pte_ref; do
		step bench "$kernel: $what"
		"${@/#KERNEL/$kernel}" >"$work/lines-$kernel"
		keep $kernel "$round"
		step_done
	done
}

# at_once ROUND WHAT COMMAND...: on both kernels at the same time, which does not
# change the number of instructions.
at_once()
{
	local round=$1 what=$2 kernel pid status=0
	shift 2
	step bench "$what"
	set -m
	for kernel in stock pte_ref; do
		"${@/#KERNEL/$kernel}" >"$work/lines-$kernel" </dev/null &
		jobs+=($!)
	done
	set +m
	for pid in "${jobs[@]}"; do
		wait "$pid" || status=1
	done
	jobs=()
	[ $status -eq 0 ] || exit 1
	keep stock "$round"
	keep pte_ref "$round"
	step_done
}

# What perf says of some rows and of the one that moved most, as text.
perf_texts()
{
	local kernel row
	row=$(awk -F, '$2 == "count" && $1 !~ /^threads_|_[0-9]+[gm]?$|^madvise_|_page$/ && $5 > most { most = $5; row = $1 }
		END { print row }' "$work/bench.csv")
	for kernel in stock pte_ref; do
		step bench "$kernel: perf, $row"
		exact 2 $kernel perf perf "$work/perf-$kernel" "$row" fault_anon zap_busy \
			>"$work/perf-stat-$kernel.txt"
		parallel $kernel perf-mem mem >"$work/perf-mem-$kernel.txt"
		step_done
	done
	HOME=$work perf diff "$work/perf-stock.data" "$work/perf-pte_ref.data" \
		>"$work/perf-diff.txt" 2>"$work/perf-diff.log" ||
		die "perf diff failed: $(tail -n 1 "$work/perf-diff.log")"
	rm -rf "$work/.debug" "$work"/perf-*.{data,log}
}

# Page tables of the processes of the demo with the slab of their refs, beside stock
# and beside what the populated entries and the upper tables need.
demo()
{
	local kernel
	"$top/demo/run.sh" >"$work/demo.txt" || die "the demo failed, see above"
	for kernel in stock pte_ref; do
		awk -F'\t' -v kernel=$kernel '{ v[$1, $2] = $3; if ($2 == "end") w[++n] = $1 }
			END {
				for (i = 1; i <= n; i++) {
					kb = v[w[i], "end"] + v[w[i], "slab"] - v["idle", "slab"]
					print kernel, 1, "demo_" w[i], kb
					if (kernel == "pte_ref") {
						print "pte_ref 1 demo_" w[i] "_needed", kb
						print "stock 1 demo_" w[i] "_needed", v[w[i], "needed"]
					}
				}
			}' "$build/demo$flavour/$kernel.figures" >>"$work/figures"
	done
}

rm -rf "$work"
mkdir -p "$work/bin"
for p in ops memory will latency; do
	"${cross}gcc" -O2 -static -pthread -Wall -Wextra -Werror -o "$work/bin/$p" "$top/bench/$p.c" ||
		die "cannot build bench/$p.c"
done
jobs=()
trap '[ ${#jobs[@]} -eq 0 ] || kill -- "${jobs[@]/#/-}" 2>/dev/null; exit 130' INT TERM
start=$SECONDS
VIRTME=$("$top/scripts/virtme.sh") || exit 1
export VIRTME

# Those of threads and those with a number at the end have guests of their own.
mapfile -t count < <(rows count | grep -vE '^threads_|_[0-9]+$')
mapfile -t rate < <(rows rate)
mapfile -t turns < <(rows turns)
for ((i = 1; i <= counts; i++)); do
	at_once $i "instructions, boot $i of $counts" exact 2 KERNEL count-2 count "${count[@]}"
	at_once $i "instructions of two threads" exact_two KERNEL threads threads
	for cpus in "${possible[@]}"; do
		at_once $i "$cpus possible CPUs" exact "$cpus" KERNEL "count-$cpus" count
	done
done
[ ${#turns[@]} -eq 0 ] || at_once 1 "two CPUs that take turns" exact_two KERNEL turns \
	turns "${turns[@]}"
for ((i = 1; i <= rounds; i++)); do
	both $i "two CPUs, round $i of $rounds" parallel KERNEL wall \
		wall "$frees" "$seconds" "${rate[@]}"
done

[ $run = quick ] || demo

status=0
"$top/bench/report.sh" "$work" $run || status=$?
[ $status -eq 0 ] || [ $status -eq 2 ] || exit $status
[ $run = quick ] || perf_texts
rm -rf "$build/bench$flavour"
mv "$work" "$build/bench$flavour"
log "[bench] table.txt, bench.csv and bench.png are in $build/bench$flavour, after $((SECONDS - start)) s"
[ $status -eq 0 ] || die "a row is above its limit or has no figure, see above"
