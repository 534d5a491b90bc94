#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Everything that must pass, or the checks that are named as arguments. A check is
# a function check_NAME below; what it prints is shown when it fails.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

passed=0
failed=0
logs=$build/log/test
tmp=$build/test.tmp

run()	# NAME LIMIT: one check in a process of its own
{
	local start=$SECONDS
	rm -rf "$tmp"
	mkdir -p "$tmp"
	if timeout -k 10 "$2" "$top/scripts/test.sh" --one "$1" </dev/null >"$logs/$1.log" 2>&1; then
		passed=$((passed + 1))
		echo "ok $1 ($((SECONDS - start)) s)"
	else
		failed=$((failed + 1))
		echo "FAIL $1 ($((SECONDS - start)) s)"
		tail -n 20 "$logs/$1.log" | sed 's/^/    /'
	fi
}

fail()
{
	echo "$*"
	exit 1
}

# says TEXT COMMAND...: the command fails, and its last line holds the text.
says()
{
	local text=$1 status=0
	shift
	"$@" >"$tmp/out" 2>&1 || status=$?
	cat "$tmp/out"
	[ "$status" -ne 0 ] || fail "succeeded, but should say: $text"
	tail -n 1 "$tmp/out" | grep -qF -- "$text" || fail "does not say: $text"
}

# A kernel that is there for tests of the tools.
boot_stock()
{
	KERNEL=stock NAME="test-$1" "$top/scripts/boot.sh"
}

check_shellcheck()
{
	"$top/scripts/lint.sh" shell
}

check_packages()
{
	"$top/scripts/packages.sh"
}

check_source()
{
	"$top/scripts/fetch.sh"
	"$top/scripts/apply.sh"
}

# Applying again changes no file, so that nothing is compiled again.
check_apply_again()
{
	find "$build/src/pte_ref/mm" -printf '%p %T@\n' | sort >"$tmp/before"
	rm -f "$build/src/pte_ref.stamp.again"
	"$top/scripts/apply.sh"
	find "$build/src/pte_ref/mm" -printf '%p %T@\n' | sort >"$tmp/after"
	cmp "$tmp/before" "$tmp/after"
}

check_series()
{
	"$top/scripts/series.sh"
	grep -q '^Subject: ' "$build/pte_ref-v7.2.cover"
}

check_kernel_stock()
{
	KERNEL=stock DEBUG=0 "$top/scripts/kernel.sh"
}

check_kernel_debug()
{
	KERNEL=pte_ref DEBUG=1 "$top/scripts/kernel.sh"
}

# The edited files are stock's when the option is off.
check_off()
{
	"$top/scripts/check-off.sh"
}

# A 32-bit kernel cannot have the option, but shares struct ptdesc and the headers.
check_32bit()
{
	local cc=gcc make symbols=(SMP SWAP SHMEM PROC_FS USERFAULTFD TRANSPARENT_HUGEPAGE)
	if command -v ccache >/dev/null; then
		cc="ccache gcc"
		export CCACHE_DIR=${CCACHE_DIR:-$build/ccache}
	fi
	make=(kmake -C "$build/src/pte_ref" O="$build/kernel-32" ARCH=i386 CC="$cc" -j"$(nproc)")
	mkdir -p "$build/kernel-32"
	printf 'CONFIG_%s=y\n' "${symbols[@]}" >"$tmp/wanted"
	"${make[@]}" KCONFIG_ALLCONFIG="$tmp/wanted" allnoconfig
	"${make[@]}" mm/ arch/x86/mm/ kernel/fork.o lib/percpu-refcount.o
	[ -e "$build/kernel-32/mm/memory.o" ] || fail "nothing was built"
}

# The suites of the series, on UML and at the boot of an x86_64 guest.
check_kunit_um()
{
	"$top/scripts/kunit.sh"
}

check_kunit_x86()
{
	"$top/scripts/kunit-qemu.sh"
}

# All of it passes with the subsystem, and its reclaim cases fail without it.
check_selftest()
{
	DEBUG=1 "$top/scripts/selftest.sh" pte_ref
	"$top/scripts/check-log.sh" "$build/log/console-selftest-pte_ref.log"
}

check_selftest_stock()
{
	"$top/scripts/selftest.sh" stock
}

# Whoever works on a table answers as if it stayed, at each point where it can go, and
# for some seconds beside threads that empty it.
check_race()
{
	KERNEL=pte_ref DEBUG=1 TIME='' "$top/scripts/race.sh"
}

check_race_pairs()
{
	KERNEL=pte_ref DEBUG=1 TIME=10 "$top/scripts/race.sh"
}

check_kernel_pte_ref()
{
	KERNEL=pte_ref DEBUG=0 "$top/scripts/kernel.sh"
}

check_bench()
{
	QUICK=1 "$top/scripts/bench.sh"
}

# A row above its limit, one without a figure, one without a limit.
check_bench_limits()
{
	local report=("$top/bench/report.sh" "$tmp" quick)
	above()	# ROW VERDICT: exactly that row is bad
	{
		local status=0
		"${report[@]}" "$tmp/limits" >"$tmp/out" || status=$?
		grep -vE ' (verdict|target|open)$' "$tmp/out" >"$tmp/bad" || true
		cat "$tmp/bad"
		[ $status -eq 2 ] || fail "status $status, not 2"
		[ "$(wc -l <"$tmp/bad")" -eq 1 ] || fail "not one bad row"
		grep -q "^$1 .*$2$" "$tmp/bad" || fail "$1 is not $2"
	}
	cp "$build/bench/figures" "$tmp/figures"
	sed -E 's/^(fault_zero [^ ]+ [^ ]+) [0-9.]+ /\1 0.5 /' "$top/bench/limits" >"$tmp/limits"
	above fault_zero ABOVE
	sed '/^fault_zero /d' "$top/bench/limits" >"$tmp/limits"
	above fault_zero 'NO LIMIT'
	cp "$top/bench/limits" "$tmp/limits"
	sed -i '/^pte_ref [0-9]* fault_zero /d' "$tmp/figures"
	above fault_zero 'NO FIGURE'
}

# pte_ref=off: says so at boot and frees nothing.
check_boot_off()
{
	KERNEL=pte_ref DEBUG=1 NAME=test-off TIMEOUT=200 APPEND=pte_ref=off \
		RUN="dmesg | grep 'pte_ref: off' && ! grep -E '^pte_ref_[a-z_]+ [1-9]' /proc/vmstat" \
		"$top/scripts/boot.sh"
	"$top/scripts/check-log.sh" "$build/log/console-test-off.log"
}

# A copy of the repository with a source of a few files.
small_repo()
{
	local p f
	mkdir -p "$tmp/repo" "$tmp/build/src/stock"
	cp -a "$top/scripts" "$top/patches" "$tmp/repo/"
	while read -r p f; do
		for f in $f; do
			mkdir -p "$tmp/repo/$(dirname "$f")"
			cp -p "$top/$f" "$tmp/repo/$f"
		done
		sed -n 's,^diff --git a/.* b/,,p' "$top/patches/$p"
	done < <(series) | sort -u | while read -r f; do
		[ -e "$build/src/stock/$f" ] || continue
		mkdir -p "$tmp/build/src/stock/$(dirname "$f")"
		cp -p "$build/src/stock/$f" "$tmp/build/src/stock/$f"
	done
	cp "$build/src/stock.stamp" "$tmp/build/src/"
	sed -i 's/^tree/small/' "$tmp/build/src/stock.stamp"
}

check_broken_patch()
{
	local p
	small_repo
	p=$(cd "$tmp/repo/patches" && grep -l '^@@' -- *.patch | head -n 1)
	# The first line of context of the first hunk is not what the file has.
	awk '!done && hunk && /^ ./ { print " nothing like this"; done = 1; next }
		/^@@/ { hunk = 1 } { print }' "$tmp/repo/patches/$p" >"$tmp/p"
	mv "$tmp/p" "$tmp/repo/patches/$p"
	says "patches/$p does not apply to 7.2" env BUILD="$tmp/build" "$tmp/repo/scripts/apply.sh"
	tail -n 1 "$tmp/out" | grep -qE "$(sed -n 's,^diff --git a/.* b/,,p' "$top/patches/$p" |
		head -n 1): Hunk #1 FAILED at [0-9]+" || fail "names neither file nor hunk"
	[ ! -e "$tmp/build/src/pte_ref" ] || fail "a tree was left"
}

# What goes out as commits comes back as the same patches and files.
check_refresh()
{
	small_repo
	BUILD=$tmp/build "$tmp/repo/scripts/tree.sh"
	cp -a "$tmp/repo" "$tmp/before"
	BUILD=$tmp/build "$tmp/repo/scripts/refresh.sh"
	diff -r "$tmp/before" "$tmp/repo"
	echo "int changed;" >>"$tmp/build/tree/$(series | awk 'NF > 1 { print $2; exit }')"
	says "uncommitted changes" env BUILD="$tmp/build" "$tmp/repo/scripts/refresh.sh"
	says "holds work that is not in patches/" env BUILD="$tmp/build" "$tmp/repo/scripts/tree.sh"
	git -C "$tmp/build/tree" -c user.name=t -c user.email=t@t commit -qam "late change"
	says "fold that into" env BUILD="$tmp/build" "$tmp/repo/scripts/refresh.sh"
	says "holds work that is not in patches/" env BUILD="$tmp/build" "$tmp/repo/scripts/tree.sh"
}

check_wrong_version()
{
	mkdir -p "$tmp/linux"
	printf 'VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n' >"$tmp/linux/Makefile"
	touch "$tmp/linux/Kbuild"
	says "is Linux 6.12, not 7.2" env BUILD="$tmp/build" LINUX="$tmp/linux" "$top/scripts/fetch.sh"
	tar -C "$tmp" -czf "$tmp/linux.tar.gz" linux
	says "is Linux 6.12, not 7.2" env BUILD="$tmp/build" LINUX="$tmp/linux.tar.gz" "$top/scripts/fetch.sh"
	head -c 100 "$tmp/linux.tar.gz" >"$tmp/half.tar.gz"
	says "cannot unpack" env BUILD="$tmp/build" LINUX="$tmp/half.tar.gz" "$top/scripts/fetch.sh"
	says "does not exist" env BUILD="$tmp/build" LINUX="$tmp/none" "$top/scripts/fetch.sh"
	[ ! -e "$tmp/build/src/stock" ] || fail "a tree was left"
}

check_lost_symbol()
{
	says "does not take from configs/: CONFIG_NO_SUCH_SYMBOL=y" env KERNEL=stock DEBUG=0 \
		EXTRA_CONFIG=NO_SUCH_SYMBOL=y OUT="$tmp/kernel" "$top/scripts/kernel.sh"
}

# Output, exit status, host files to read, one directory to write.
check_boot()
{
	local status=0 dir=$tmp/out
	mkdir -p "$dir"
	echo "of the host" >"$tmp/host"
	RWDIR=$dir RUN="cat '$tmp/host'; echo error >&2; uname -r; cp '$tmp/host' '$dir/copy'
		touch '$tmp/guest'; exit 7" TIMEOUT=200 boot_stock boot >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
	cat "$tmp/stdout" "$tmp/stderr"
	[ "$status" -eq 7 ] || fail "exit status $status, not 7"
	[ "$(head -n 1 "$tmp/stdout")" = "of the host" ] || fail "the host's files are not readable"
	[[ $(sed -n 2p "$tmp/stdout") == 7.2* ]] || fail "no 7.2 kernel"
	[ "$(wc -l <"$tmp/stdout")" -eq 2 ] || fail "more on stdout than the command said"
	grep -qx error "$tmp/stderr" || fail "stderr is lost"
	cmp "$tmp/host" "$dir/copy"
	[ ! -e "$tmp/guest" ] || fail "the guest writes to the host's files"
	"$top/scripts/check-log.sh" "$build/log/console-test-boot.log"
}

check_boot_panic()
{
	says "guest died: Kernel panic" env KERNEL=stock NAME=test-panic TIMEOUT=200 \
		RUN='echo c >/proc/sysrq-trigger; sleep 100' "$top/scripts/boot.sh"
	grep -q 'sysrq' "$tmp/out" || fail "no console lines"
	if "$top/scripts/check-log.sh" "$build/log/console-test-panic.log"; then
		fail "check-log.sh sees nothing in the log of a panic"
	fi
}

check_boot_hang()
{
	says "time limit of 60 s reached" env KERNEL=stock NAME=test-hang TIMEOUT=60 \
		RUN='echo started; sleep 1000' "$top/scripts/boot.sh"
}

checks()
{
	run packages 600
	run shellcheck 60
	run source 900
	run apply_again 60
	run series 120
	run broken_patch 60
	run refresh 60
	run wrong_version 60
	run kernel_stock 1500
	run lost_symbol 60
	run boot 240
	run boot_panic 240
	run boot_hang 120
	run selftest_stock 400
	run kernel_pte_ref 1500
	run bench 900
	run bench_limits 60
	run off 900
	run 32bit 600
	run kernel_debug 1800
	run boot_off 240
	run kunit_x86 400
	run selftest 600
	run race 400
	run race_pairs 400
	run kunit_um 1500
}

if [ "${1:-}" = --one ]; then
	"check_$2"
	exit
fi

# Each check says itself what it boots and builds.
unset KUNIT_CONFIG FILTER KERNEL DEBUG QUICK TIME GROUP RUN TIMEOUT RWDIR TREE MEM CPUS APPEND QEMU_OPTS
start=$SECONDS
mkdir -p "$logs"
lock test
if [ $# -gt 0 ]; then
	for c; do
		declare -F "check_$c" >/dev/null || die "no check is called $c"
		run "$c" 2400
	done
else
	checks
fi
rm -rf "$tmp"
log "[test] $((SECONDS - start)) s"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
