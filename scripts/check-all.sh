#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What make test has no time for: other kernels, and checks that build much. A line for
# each, which replaces its row in bench/CHECKS.md, and the status 1 if one failed. Arguments
# choose; -h says which there are; without, all. TIME: seconds for each group of callers of race.
set -euo pipefail
options='TIME'
words='[production|turned-off|nosplit|rt|kasan|kcsan|configs|fixes|mutants|lint|arm64|cloud|series|mm|harm|load|faults|older]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

table=$top/bench/CHECKS.md
failed=0
time=${TIME:-1}

# part NAME COMMAND...: what follows runs also if it fails.
bad=0
part()
{
	local name=$1
	shift
	if "$@"; then
		echo "part: ok $name"
	else
		echo "part: FAIL $name"
		bad=$((bad + 1))
	fi
}

# A kernel with a sanitizer takes longer than patience() knows.
export WAIT=10
sanitizer_wait=60

# other_kernel NAME SYMBOL=VALUE...: the debug kernel, or what "debug" says, with these and
# with what make test leaves out, or what "more" says.
debug=1 more=wide
other_kernel()
{
	local out=$build/kernel-pte_ref-$1${more:+-$more}
	shift
	export KERNEL=pte_ref DEBUG=$debug
	[ -z "$more" ] || export APPEND='numa=fake=2'
	OUT=$out FRAGMENTS=$more EXTRA_CONFIG="$*" "$top/scripts/kernel.sh"
	unset HMM
	! grep -qx CONFIG_TEST_HMM=y "$out/.config" || export HMM=1
	TIMEOUT=$(patience 4000)
	export TIMEOUT
	export IMAGE=$out/arch/$srcarch/boot/$kimage
}

kunit()	{ part KUnit "$top/scripts/kunit-qemu.sh"; }
kselftest()	{ part kselftest "$top/scripts/selftest.sh" pte_ref; }
points()	{ TIME='' part "race, points" "$top/scripts/race.sh"; }
no_refs()	{ TIME='' NO_REFS=1 part "race, no refs" "$top/scripts/race.sh"; }
pairs()	{ TIME=$time part "race, pairs" "$top/scripts/race.sh"; }
# The load, by itself.
load()	{ TIME=30 STRESS_TIME=0 part load "$top/scripts/load.sh"; }

# Nothing is left that nobody knows: kmemleak takes what is younger than five seconds for
# in use, and a pointer in a register for none.
leaks()
{
	local prog=$build/selftest/$arch/pte_ref leak=/sys/kernel/debug/kmemleak p
	for p in pte_ref pte_ref_race pte_ref_load; do
		"$top/scripts/selftest-build.sh" $p || return
	done
	NAME=leaks TIMEOUT=$(patience 4000) RUN="cd /tmp; bad=
		'$prog' || bad=1
		'${prog}_race' -w $(patience "$WAIT") || bad=1
		'$top/scripts/load-guest.sh' 0 '' 1 '${prog}_load' -t 30 >load
		grep '^not ok' load; grep -q '^# load, seed 1: status 0' load || bad=1
		for _ in 1 2 3; do sleep 6; echo scan >$leak || exit 1; done
		cat $leak; ! grep -q . $leak && [ -z \"\$bad\" ]" "$top/scripts/boot.sh" &&
		"$top/scripts/check-log.sh" "$build/log/console-leaks.log"
}

# The kernel that is installed, where exit does not count, and nothing is recounted.
check_production()
{
	export KERNEL=pte_ref DEBUG=0
	"$top/scripts/kernel.sh"
	kselftest
	pairs
}

# CONFIG_PT_RECLAIM alone, with the fixes of the callers.
check_turned-off()
{
	export DEBUG=1 KERNEL=pte_ref OFF=1
	"$top/scripts/kernel.sh"
	pairs
}

# One lock for all page tables of an mm.
check_nosplit()
{
	more=''
	other_kernel nosplit NR_CPUS=2 SPLIT_PTE_PTLOCKS=n
	kunit
	kselftest
	points
	no_refs
	pairs
}

# Locks that sleep. Such a kernel has no huge pages.
check_rt()
{
	export NO_THP=1
	other_kernel rt PREEMPT_RT=y FAIL_PTE_TABLE=n NUMA_BALANCING=n \
		TRANSPARENT_HUGEPAGE=n TRANSPARENT_HUGEPAGE_MADVISE=n TEST_HMM=n
	MAY_SKIP='needs FAIL_PTE_TABLE' kunit
	kselftest
	pairs
	load
}

check_kasan()
{
	debug=kasan WAIT=$sanitizer_wait
	other_kernel kasan DEBUG_KMEMLEAK=y DEBUG_KMEMLEAK_AUTO_SCAN=n
	# With five levels KASAN reports an interrupt in identify_cpu(), which has cleared
	# X86_FEATURE_LA57 for a moment, and turns lockdep off.
	APPEND+=' no5lvl'
	part leaks leaks
	kunit
	kselftest
	points
	no_refs
	pairs
	load
}

# Each plain access of our functions counts, and none of stock's, which has many. In a guest
# without KVM few of them meet: more are watched, for longer. Points have one thread.
check_kcsan()
{
	WAIT=$sanitizer_wait
	local f=$build/kernel-pte_ref-kcsan-wide
	other_kernel kcsan KCSAN=y KCSAN_EARLY_ENABLE=y KCSAN_STRICT=y \
		KCSAN_DELAY_RANDOMIZE=y KCSAN_SKIP_WATCH_RANDOMIZE=y KCSAN_SKIP_WATCH=500 \
		KCSAN_UDELAY_TASK=500 KCSAN_UDELAY_INTERRUPT=50
	KCSAN_OF=$(nm "$f"/mm/{pte_ref*,fail_pte_table}.o "$f"/lib/{percpu-refcount,test_vm_insert}.o \
		"$f"/lib/tests/{percpu_ref_kunit,pte_ref/*}.o |
		awk '$2 ~ /[tT]/ && $3 ~ /^[[:alpha:]_]/ { sub(/\..*/, "", $3); print $3 }' |
		sort -u | paste -sd'|')
	export KCSAN_OF
	kunit
	kselftest
	pairs
	load
	for f in kunit selftest-pte_ref "race-pte_ref-1-$time" load-pte_ref; do
		f=$build/log/console-$f.log
		grep -q 'kcsan: enabled early' "$f" || die "KCSAN is not on: $f"
		grep -o 'BUG: KCSAN: .*' "$f" | sort | uniq -c | sort -rn || true
	done
}

# Others are not harmed more than by processes that spin.
check_harm()
{
	KERNEL=stock DEBUG=0 "$top/scripts/kernel.sh"
	KERNEL=pte_ref DEBUG=0 "$top/scripts/kernel.sh"
	DEBUG=0 "$top/scripts/harm.sh"
}

# The fixes alone; and what they fix is seen without them, by one case without luck.
check_fixes()
{
	local output=$build/fixes-without/output
	TIME=$time "$top/scripts/race-fixes.sh"
	mkdir -p "${output%/*}"
	WITHOUT=1 TIME=$time "$top/scripts/race-fixes.sh" >"$output" || true
	grep '^not ok' "$output" || true
	grep -q '^# Totals:' "$output" || die "without the fixes the run did not come to its end"
	grep -q '^not ok [0-9]* scan\.scan_no_vector\.own$' "$output" ||
		die "without the fixes scan.scan_no_vector.own does not fail"
}

check_configs()	{ "$top/scripts/configs.sh"; }
check_mutants()	{ "$top/scripts/mutants.sh"; }
check_lint()	{ "$top/scripts/lint.sh"; }
check_arm64()	{ "$top/scripts/test-arm64.sh"; }
check_cloud()	{ "$top/scripts/check-cloud.sh"; }
check_load()	{ TIME='' "$top/scripts/load.sh"; }
check_faults()	{ TIME='' "$top/scripts/faults.sh"; }
check_mm()	{ TIME='' "$top/scripts/mm-tests.sh"; }
check_series()	{ "$top/scripts/series-build.sh"; }

# What patches/VERSION is for.
check_older()
{
	local v
	for v in "${supported[@]:1}"; do
		VERSION=$v "$top/scripts/test.sh" source kernel_debug kunit_x86 selftest race \
			race_pairs off
	done
}

if [ "${1:-}" = one ]; then
	"check_$2"
	exit $((bad > 0))
fi

# The commit that is checked, with + if there are changes.
commit()
{
	local commit
	if ! commit=$(git -C "$top" rev-parse --short HEAD 2>/dev/null); then
		commit=-
	elif ! git -C "$top" diff --quiet HEAD -- . ':!bench/CHECKS.md'; then
		commit+=+
	fi
	echo "$commit"
}

# row NAME WORD SECONDS COMMIT: in the first table; the second has these names too.
row()
{
	local line linux
	linux=$(version)
	[ "$1" != older ] || linux="${supported[*]:1}"
	line="| $1 | $2 | $(($3 / 60)) min | $(date +%Y-%m-%d) | $linux | $4 | \`scripts/check-all.sh $1\` |"
	awk -v name="$1" -v line="$line" '
		/^[|]/ { table = 1 }
		!/^[|]/ && table && !done { print line; done = 1 }
		!done && $0 ~ "^[|] " name " [|]" { print line; done = 1; next }
		{ print }' "$table" >"$table.tmp"
	mv "$table.tmp" "$table"
}

# What would make another check of one than its row says.
forget ARCH TIME
mkdir -p "$build/log"
[ -f "$build/src/stock.stamp" ] || die "no source: run make source"
[ $# -gt 0 ] || set -- production turned-off nosplit rt kasan kcsan configs fixes mutants lint arm64 cloud series mm harm load faults older
for name; do
	declare -F "check_$name" >/dev/null || die "no check is called $name, see scripts/check-all.sh -h"
done
for name; do
	start=$SECONDS word=ok
	commit=$(commit)
	log "[check-all] $name"
	guarded 0 "$0" one "$name" >"$build/log/all-$name.log" 2>&1 || word=FAIL
	[ "$commit" = "$(commit)" ] || commit=${commit%+}+
	[ $word = ok ] || failed=$((failed + 1))
	echo "$word $name ($((SECONDS - start)) s)"
	sed -n 's/^part: /    /p' "$build/log/all-$name.log"
	[ $word = ok ] || tail -n 5 "$build/log/all-$name.log" | sed 's/^/    /'
	row "$name" $word $((SECONDS - start)) "$commit"
done
[ $failed -eq 0 ]
