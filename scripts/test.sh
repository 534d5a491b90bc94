#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Everything that must pass, or the checks that are named as arguments. A check is
# a function check_NAME below; what it prints is shown when it fails. With BUDGET, in
# seconds, a check that would not end in time is skipped, and so is what needs it.
set -euo pipefail
options='BUDGET'
words='[CHECK]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

passed=0
failed=0
skipped=
logs=$build/log/test
# What is started below works on the same directory.
export BUILD=$build
tmp=$build/test.tmp

# run NAME SECONDS [NEEDED]: one check in a process of its own. SECONDS is what it takes on a machine
# of two cores if nothing is compiled yet: a limit that ends a hang follows from it, and
# so does what make test says of the time that is left, unless this user's last run is
# known. NEEDED is a check before it without which it cannot run.
run()
{
	local began=$SECONDS took word=ok usual likely
	usual=$(expected "$1" "$2")
	likely=$((usual * $(pace) / 100 + 1))
	number=$((number + 1))
	if [ -n "${3:-}" ] && [[ " $skipped " == *" $3 "* ]]; then
		skip "$1" "$3 was skipped"
		return
	fi
	if [ -n "${BUDGET:-}" ] && [ $((SECONDS - start + likely)) -gt "$BUDGET" ]; then
		skip "$1" "takes about $likely s here, of BUDGET=$BUDGET $((BUDGET - SECONDS + start)) s are left"
		return
	fi
	log "[test] $number of $total, $(left): $1, about $likely s"
	rm -rf "$tmp"
	mkdir -p "$tmp"
	guarded "$(patience $((4 * $2 + 600)))" "$top/scripts/test.sh" -- --one "$1" \
		>"$logs/$1.log" 2>&1 || word=FAIL
	took=$((SECONDS - began))
	if [ $word = ok ]; then
		passed=$((passed + 1))
		sed -i "/^$1 /d" "$durations"
		echo "$1 $took" >>"$durations"
	else
		failed=$((failed + 1))
	fi
	before=$((before + usual))
	if [ "$usual" -ge 60 ]; then
		long=$((long + usual))
		long_took=$((long_took + took))
	fi
	echo "$word $1 ($took s)"
	[ $word = ok ] || show "$logs/$1.log" | sed 's/^/    /'
}

# show LOG: what failed, with the reason before it, however far above; and the end.
show()
{
	grep -a -n -B 3 -E '^ *not ok |^guest died|WARNING: |BUG: ' "$1" | tail -n 40 || true
	echo ...
	tail -n 20 "$1"
}

skip()	# NAME WHY
{
	skipped="$skipped $1"
	echo "skip $1: $2"
}

# expected NAME SECONDS: what a check takes, from the last run if there was one.
expected()
{
	awk -v name="$1" -v took="$2" '$1 == name { took = $2 } END { print took }' "$durations"
}

# Percent of the usual time that this run needs, by its long checks; before the first of
# them by this machine.
pace()
{
	if [ $long -gt 0 ]; then
		echo $((long_took * 100 / long))
	else
		cat "$build/slowness" 2>/dev/null || echo 100
	fi
}

left()
{
	echo "about $(((all - before) * $(pace) / 6000 + 1)) min left"
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
	ARCH=arm64 "$top/scripts/packages.sh"
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
	sed -i '$s/.*/none/' "$build/src/pte_ref.stamp"
	"$top/scripts/apply.sh"
	find "$build/src/pte_ref/mm" -printf '%p %T@\n' | sort >"$tmp/after"
	cmp "$tmp/before" "$tmp/after"
}

check_series()
{
	local n=0 part out
	"$top/scripts/series.sh"
	while read -r part _; do
		n=$((n + 1))
		out=$build/pte_ref-v$(version)-$n-$part
		grep -q '^Subject: ' "$out.cover"
		cat "$out.mbox"
	done < <(sed -e 's/#.*//' -e '/^ *$/d' "$top/patches/parts") >"$tmp/mails"
	[ "$(grep -c '^From 0\{40\} ' "$tmp/mails")" -eq "$(series | wc -l)" ] ||
		fail "the parts have not all patches of the series"
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

# A model of the counting holds, and each of its broken variants is caught.
check_model()
{
	"$top/scripts/model.sh"
}

# Each line of the list is one of this source; scripts/mutants.sh runs them.
check_mutants_list()
{
	CHECK=1 "$top/scripts/mutants.sh"
}

# The barriers are enough, and each is needed.
check_litmus()
{
	"$top/scripts/litmus.sh"
}

# A 32-bit kernel cannot have the option, but shares struct ptdesc and the headers.
check_32bit()
{
	local cc make symbols=(SMP SWAP SHMEM PROC_FS USERFAULTFD TRANSPARENT_HUGEPAGE)
	use_ccache
	make=(kmake -C "$build/src/pte_ref" O="$build/kernel-32" ARCH=i386 CC="$cc" -j"$(nproc)")
	mkdir -p "$build/kernel-32"
	printf 'CONFIG_%s=y\n' "${symbols[@]}" >"$tmp/wanted"
	"${make[@]}" KCONFIG_ALLCONFIG="$tmp/wanted" allnoconfig
	"${make[@]}" mm/ arch/x86/mm/ kernel/fork.o lib/percpu-refcount.o
	[ -e "$build/kernel-32/mm/memory.o" ] || fail "nothing was built"
	# The 32-bit vDSO of a 64-bit kernel sees the headers in a way of its own.
	KERNEL=pte_ref DEBUG=0 OUT=$build/kernel-ia32 EXTRA_CONFIG=IA32_EMULATION=y \
		TARGETS=arch/x86/entry/vdso/ "$top/scripts/kernel.sh"
	[ -e "$build/kernel-ia32/arch/x86/entry/vdso/vdso32/vclock_gettime.o" ] ||
		fail "no 32-bit vDSO was built"
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

# QEMU has five levels of page tables, most machines use four.
check_kunit_4_levels()
{
	APPEND=no5lvl "$top/scripts/kunit-qemu.sh"
}

# All of it passes with the subsystem, and its reclaim cases fail without it.
check_selftest()
{
	DEBUG=1 "$top/scripts/selftest.sh" pte_ref
	"$top/scripts/check-log.sh" "$build/log/console-selftest-pte_ref.log"
}

# The kernel that is installed, where exit does not count, and nothing is recounted.
check_selftest_production()
{
	DEBUG=0 "$top/scripts/selftest.sh" pte_ref
	"$top/scripts/check-log.sh" "$build/log/console-selftest-pte_ref.log"
}

check_selftest_stock()
{
	"$top/scripts/selftest.sh" stock
}

# Code that works on a table answers as if it stayed, at each point where it can be freed, and
# for some seconds beside threads that empty it.
check_race()
{
	KERNEL=pte_ref DEBUG=1 TIME='' "$top/scripts/race.sh"
}

# The same where nobody can hold a table, and on four levels of tables.
check_race_no_refs()
{
	APPEND=no5lvl KERNEL=pte_ref DEBUG=1 TIME='' NO_REFS=1 "$top/scripts/race.sh"
}

# A kernel without the fixes of the callers must fail the cases for them.
check_race_bad()
{
	"$top/scripts/race-bad.sh"
}

check_race_pairs()
{
	KERNEL=pte_ref DEBUG=1 TIME=10 "$top/scripts/race.sh"
}

# The same on arm64, with small and with large pages.
check_kernel_arm64()
{
	ARCH=arm64 KERNEL=pte_ref DEBUG=1 "$top/scripts/kernel.sh"
}

check_kunit_arm64()
{
	ARCH=arm64 "$top/scripts/kunit-qemu.sh"
}

check_selftest_arm64()
{
	ARCH=arm64 DEBUG=1 "$top/scripts/selftest.sh" pte_ref
}

check_race_arm64()
{
	ARCH=arm64 KERNEL=pte_ref DEBUG=1 TIME='' "$top/scripts/race.sh"
}

check_kernel_arm64_64k()
{
	PAGES=64k check_kernel_arm64
}

check_kunit_arm64_64k()
{
	PAGES=64k check_kunit_arm64
}

check_selftest_arm64_64k()
{
	PAGES=64k check_selftest_arm64
}

check_race_arm64_64k()
{
	PAGES=64k check_race_arm64
}

check_kernel_pte_ref()
{
	KERNEL=pte_ref DEBUG=0 "$top/scripts/kernel.sh"
}

# pte_waste against a program that knows its own tables: here, on both kernels, and what it
# predicts on stock against what pte_ref gives back.
check_pte_waste()
{
	"$top/scripts/pte_waste.sh" native
}

check_pte_waste_stock()
{
	DEBUG=0 "$top/scripts/pte_waste.sh" stock
}

check_pte_waste_pte_ref()
{
	DEBUG=0 "$top/scripts/pte_waste.sh" pte_ref compare
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

# pte_ref=off: says so at boot, and frees none of the tables that it frees otherwise.
check_boot_off()
{
	local prog=$build/selftest/$arch/pte_ref
	"$top/scripts/selftest-build.sh" pte_ref
	export KERNEL=pte_ref DEBUG=1 NAME=test-off APPEND=pte_ref=off \
		RUN="dmesg | grep 'pte_ref: off' && ! '$prog' -t pieces_4k -t ftruncate 2>&1 &&
			! grep -E '^pte_ref_[a-z_]+ [1-9]' /proc/vmstat"
	run_guest "$tmp/out" "$top/scripts/boot.sh"
	"$top/scripts/check-log.sh" "$build/log/console-test-off.log"
	[ "$(grep -c '^# .* tables kept$' "$tmp/out")" -ge 2 ] || fail "no tables are kept"
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
	done < <(series)
	{ edited; echo Makefile; } | while read -r f; do
		[ -e "$build/src/stock/$f" ] || continue
		mkdir -p "$tmp/build/src/stock/$(dirname "$f")"
		cp -p "$build/src/stock/$f" "$tmp/build/src/stock/$f"
	done
	sed 's/^tree/small/' "$build/src/stock.stamp" >"$tmp/build/src/stock.stamp"
}

small()	# COMMAND...: on the copy
{
	env -u VERSION BUILD="$tmp/build" "$@"
}

# other_context FILE PATCH: the line that is the first context of the patch is another one
# in the file and in the patch.
other_context()
{
	local line
	line=$(awk 'hunk && /^ ./ { print substr($0, 2); exit } /^@@/ { hunk = 1 }' "$2")
	awk -v line="$line" '$0 == line { $0 = "/* another line */" } { print }' "$1" >"$tmp/file"
	mv "$tmp/file" "$1"
	awk -v line=" $line" '$0 == line { $0 = " /* another line */" } { print }' "$2"
}

check_broken_patch()
{
	local p
	small_repo
	p=$(series | awk '{ print $1; exit }')
	# The first line of context of the first hunk is not what the file has.
	awk '!done && hunk && /^ ./ { print " nothing like this"; done = 1; next }
		/^@@/ { hunk = 1 } { print }' "$tmp/repo/patches/$p" >"$tmp/p"
	mv "$tmp/p" "$tmp/repo/patches/$p"
	says "patches/$p does not apply to $(version)" env -u VERSION BUILD="$tmp/build" "$tmp/repo/scripts/apply.sh"
	tail -n 1 "$tmp/out" | grep -qE "$(sed -n 's,^diff --git a/.* b/,,p' "$top/patches/$p" |
		head -n 1): Hunk #1 FAILED at [0-9]+" || fail "names neither file nor hunk"
	[ ! -e "$tmp/build/src/pte_ref" ] || fail "a tree was left"
}

# What goes out as commits comes back as the same patches and files.
check_refresh()
{
	small_repo
	small "$tmp/repo/scripts/tree.sh"
	cp -a "$tmp/repo" "$tmp/before"
	small "$tmp/repo/scripts/refresh.sh"
	diff -r "$tmp/before" "$tmp/repo"
	echo "int changed;" >>"$tmp/build/tree/$(series | awk 'NF > 1 { print $2; exit }')"
	says "uncommitted changes" env -u VERSION BUILD="$tmp/build" "$tmp/repo/scripts/refresh.sh"
	says "holds work that is not in patches/" env -u VERSION BUILD="$tmp/build" "$tmp/repo/scripts/tree.sh"
	git -C "$tmp/build/tree" -c user.name=t -c user.email=t@t commit -qam "late change"
	says "fold that into" env -u VERSION BUILD="$tmp/build" "$tmp/repo/scripts/refresh.sh"
	says "holds work that is not in patches/" env -u VERSION BUILD="$tmp/build" "$tmp/repo/scripts/tree.sh"
}

# A version of Linux that needs another form of the first patch, and one patch more.
check_variants()
{
	local first f name dir=$tmp/repo/patches/9.9
	small_repo
	sed -i 's/^supported=(\(.*\))/supported=(\1 9.9)/' "$tmp/repo/scripts/lib.sh"
	[ ! -d "$top/patches/$(version)" ] || cp -a "$top/patches/$(version)" "$dir"
	sed -i 's/ [^ ]*$/ 9.9.1/' "$tmp/build/src/stock.stamp"
	sed -i -e 's/^VERSION = .*/VERSION = 9/' -e 's/^PATCHLEVEL = .*/PATCHLEVEL = 9/' \
		"$tmp/build/src/stock/Makefile"
	first=$(series | awk '{ print $1; exit }')
	name=${first#*-}
	f=$(sed -n 's,^diff --git a/.* b/,,p' "$top/patches/$first" | head -n 1)
	mkdir -p "$dir"
	other_context "$tmp/build/src/stock/$f" "$top/patches/$first" >"$tmp/variant"
	says "does not apply to 9.9" small "$tmp/repo/scripts/apply.sh"
	cp "$tmp/variant" "$dir/$name"
	sed -n '/^---$/q;p' "$tmp/variant" | sed 's/^Subject: .*/Subject: only for 9.9/' >"$dir/only-for-9.9.patch"
	{
		printf '%s\n' --- 'diff --git a/Makefile b/Makefile' '--- a/Makefile' '+++ b/Makefile' \
			'@@ -1,4 +1,5 @@'
		sed -n -e '1,4s/^/ /' -e '1,4p' -e '1a+# only for 9.9' "$tmp/build/src/stock/Makefile"
	} >>"$dir/only-for-9.9.patch"
	[ -s "$dir/series" ] ||
		echo "# What only 9.9 needs, each with the patch before which it goes." >"$dir/series"
	echo "only-for-9.9.patch $name" >>"$dir/series"
	small "$tmp/repo/scripts/tree.sh"
	[ "$(git -C "$tmp/build/tree" log --reverse --format=%s pristine.. | head -n 1)" = "only for 9.9" ] ||
		fail "the patch of 9.9 alone is not in its place"
	cp -a "$tmp/repo" "$tmp/before"
	small "$tmp/repo/scripts/refresh.sh"
	# Nothing but these is kept for 9.9, and nothing else is touched.
	grep -q '^ /\* another line \*/$' "$dir/$name" || fail "the variant is lost"
	grep -qx "only-for-9.9.patch $name" "$dir/series" || fail "the patch of 9.9 alone is lost"
	diff <(ls "$tmp/before/patches/9.9") <(ls "$dir")
	diff -r -x 9.9 "$tmp/before" "$tmp/repo"
}

# The verdict of each patch on a version that has one context changed, near and far.
check_port()
{
	local first f lines
	small_repo
	mkdir -p "$tmp/build/9.9"
	mv "$tmp/build/src" "$tmp/build/9.9/src"
	sed -i 's/ [^ ]*$/ 9.9.1/' "$tmp/build/9.9/src/stock.stamp"
	[ ! -d "$top/patches/$(version)" ] || cp -a "$top/patches/$(version)" "$tmp/repo/patches/9.9"
	first=$(series | awk '{ print $1; exit }')
	f=$(sed -n 's,^diff --git a/.* b/,,p' "$top/patches/$first" | head -n 1)
	port()	# VERDICT
	{
		rm -rf "$tmp/build/9.9/tree"
		env -u LINUX BUILD="$tmp/build" VERSION=9.9 "$tmp/repo/scripts/port.sh" >"$tmp/out"
		cat "$tmp/out"
		grep -qF -- "${first##*/}: $1" "$tmp/out" || fail "not: $1"
	}
	port "as it is"
	tail -n 1 "$tmp/out" | grep -qx "$(series | wc -l) as they are, 0 with fuzz, 0 not" ||
		fail "the series applies, but not by port.sh"
	cp "$tmp/build/9.9/src/stock/$f" "$tmp/f"
	other_context "$tmp/build/9.9/src/stock/$f" "$top/patches/$first" >/dev/null
	port "with fuzz: $f: #1"
	# What the patch takes away is not there.
	cp "$tmp/f" "$tmp/build/9.9/src/stock/$f"
	lines=$(awk 'hunk && /^-./ { print substr($0, 2); exit } /^@@/ { hunk = 1 }' "$top/patches/$first")
	awk -v line="$lines" '$0 != line' "$tmp/f" >"$tmp/build/9.9/src/stock/$f"
	port "does not apply: $f: #1"
	[ -s "$tmp/build/9.9/port/${first##*/}.rej" ] || fail "the hunk is not kept"
	[ "$(git -C "$tmp/build/9.9/tree" rev-list --count pristine..)" -eq "$(series | wc -l)" ] ||
		fail "not a commit for each patch"
}

check_wrong_version()
{
	mkdir -p "$tmp/linux"
	printf 'VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n' >"$tmp/linux/Makefile"
	touch "$tmp/linux/Kbuild"
	says "is Linux 6.12: give LINUX=/path/to/a tree or tarball of Linux ${supported[0]}.y or ${supported[1]}.y" \
		env -u VERSION BUILD="$tmp/build" LINUX="$tmp/linux" "$top/scripts/fetch.sh"
	tar -C "$tmp" -czf "$tmp/linux.tar.gz" linux
	says "is Linux 6.12: give LINUX=" \
		env -u VERSION BUILD="$tmp/build" LINUX="$tmp/linux.tar.gz" "$top/scripts/fetch.sh"
	head -c 100 "$tmp/linux.tar.gz" >"$tmp/half.tar.gz"
	says "cannot unpack" env -u VERSION BUILD="$tmp/build" LINUX="$tmp/half.tar.gz" "$top/scripts/fetch.sh"
	says "VERSION=6.12 is not supported, ${supported[*]} are; to port the series: make port VERSION=6.12" \
		env BUILD="$tmp/build" VERSION=6.12 "$top/scripts/fetch.sh"
	says "does not exist" env -u VERSION BUILD="$tmp/build" LINUX="$tmp/none" "$top/scripts/fetch.sh"
	[ ! -e "$tmp/build/src/stock" ] || fail "a tree was left"
}

# Debian has neither of the supported versions, or cannot be reached.
check_no_version()
{
	local lists=$tmp/cache/pte_ref/dl/apt/lists
	local fetch=(env -u VERSION BUILD="$tmp/build" XDG_CACHE_HOME="$tmp/cache" "$top/scripts/fetch.sh")
	mkdir -p "$lists"
	touch "$lists/none_Packages"
	says "Debian has none of$(printf ' linux-source-%s' "${supported[@]}") now: give LINUX=/path/to/a tree or tarball of Linux ${supported[0]}.y or" \
		"${fetch[@]}"
	says "Debian has none of linux-source-${supported[1]} now: give LINUX=/path/to/a tree or tarball of Linux ${supported[1]}.y" \
		env "${fetch[@]:0:3}" VERSION="${supported[1]}" "${fetch[@]:3}"
	[ ! -e "$tmp/build/src/stock" ] || fail "a tree was left"
}

# The first package that Debian has; the newest version of it, which replaces an older
# one; what is kept, if Debian cannot be reached.
check_debian_get()
{
	local dl=$tmp/cache/pte_ref/dl
	local get=(env XDG_CACHE_HOME="$tmp/cache" PATH="$tmp/bin:$PATH" "$top/scripts/debian-get.sh"
		"name one" linux-source-9.2 '^9\.2[.-]' linux-source-9.1 '^9\.1[.-]')
	mkdir -p "$tmp/bin" "$dl/apt/lists"
	touch "$dl/apt/lists/some_Packages"
	cat >"$tmp/bin/apt-cache" <<-END
		#!/bin/sh
		for last; do :; done
		sed -n "s/^\$last /\$last | /p" "$tmp/has"
	END
	cat >"$tmp/bin/apt-get" <<-END
		#!/bin/sh
		for last; do :; done
		case "\$*" in
		*indextargets*) echo "Debian|Debian|main|none:" ;;
		*update) [ ! -e "$tmp/offline" ] && touch "$dl/apt/lists/some_Packages" && cp "$tmp/new" "$tmp/has" ;;
		*) [ ! -e "$tmp/offline" ] && grep -qx "\${last%=*} \${last#*=}" "$tmp/new" &&
			: >"\${last%=*}_\${last#*=}_all.deb" ;;
		esac
	END
	chmod +x "$tmp/bin"/*
	gets()	# NAME: it is that, and nothing else is kept
	{
		"${get[@]}" >"$tmp/got"
		grep -qx "$dl/$1" "$tmp/got" || fail "not $1 but $(cat "$tmp/got")"
		[ "$(cd "$dl" && echo *.deb)" = "${2:-$1}" ] || fail "kept: $(cd "$dl" && echo *.deb)"
	}
	echo "linux-source-9.1 9.1.9-1" | tee "$tmp/new" >"$tmp/has"
	gets linux-source-9.1_9.1.9-1_all.deb
	echo "linux-source-9.1 9.1.10-1" | tee "$tmp/new" >>"$tmp/has"
	gets linux-source-9.1_9.1.10-1_all.deb
	echo "linux-source-9.2 9.2~rc3-1" | tee -a "$tmp/new" >>"$tmp/has"
	gets linux-source-9.1_9.1.10-1_all.deb
	# The lists are a day old at most: what they name may be gone.
	echo "linux-source-9.1 9.1.11-1" >>"$tmp/has"
	echo "linux-source-9.1 9.1.12-1" >"$tmp/new"
	gets linux-source-9.1_9.1.12-1_all.deb
	echo "linux-source-9.2 9.2.1-1" | tee -a "$tmp/new" >>"$tmp/has"
	touch "$tmp/offline"
	gets linux-source-9.1_9.1.12-1_all.deb
	rm "$tmp/offline"
	gets linux-source-9.2_9.2.1-1_all.deb \
		"linux-source-9.1_9.1.12-1_all.deb linux-source-9.2_9.2.1-1_all.deb"
	: >"$tmp/has"
	gets linux-source-9.2_9.2.1-1_all.deb \
		"linux-source-9.1_9.1.12-1_all.deb linux-source-9.2_9.2.1-1_all.deb"
}

check_lost_symbol()
{
	says "does not take from configs/: CONFIG_NO_SUCH_SYMBOL=y" env KERNEL=stock DEBUG=0 \
		EXTRA_CONFIG=NO_SUCH_SYMBOL=y OUT="$tmp/kernel" "$top/scripts/kernel.sh"
}

# What make deb cannot take it says before anything is fetched.
check_deb_arguments()
{
	local deb=(env -u VERSION BUILD="$tmp/build" "$top/scripts/deb.sh")
	says "CONFIG=server: must be lean, cloud, debian, or the path of a configuration" \
		"${deb[@]}" --config server
	says "CONFIG=/boot/config-none: there is no such file" "${deb[@]}" --config /boot/config-none
	echo 'CONFIG_RISCV=y' >"$tmp/riscv"
	says "is no configuration of Linux for $arch" "${deb[@]}" --config "$tmp/riscv"
	says "KERNEL=other: must be pte_ref or stock" "${deb[@]}" --kernel other
	says "ARCH=riscv: must be x86_64 or arm64" "${deb[@]}" --arch riscv
	[ ! -e "$tmp/build/src" ] || fail "a source was fetched"
	mkdir -p "$tmp/build/src"
	echo "small 9.9.1" >"$tmp/build/src/stock.stamp"
	says "no package linux-image-9.9.1-pteref in $tmp/build/deb/lean: run make deb CONFIG=lean" \
		env -u VERSION BUILD="$tmp/build" "$top/scripts/check-deb.sh"
}

# A limit of time follows the machine: here one that compiles in half a second.
check_patience()
{
	local limit
	mkdir -p "$tmp/bin"
	printf '#!/bin/sh\nsleep 0.5\n' >"$tmp/bin/gcc"
	chmod +x "$tmp/bin/gcc"
	limit=$(build=$tmp PATH=$tmp/bin:$PATH patience 100)
	[ "$limit" -ge 500 ] || fail "100 s are $limit s on a machine five times slower"
	# Not shorter again within the run.
	limit=$(build=$tmp patience 100)
	[ "$limit" -ge 500 ] || fail "the limit falls to $limit s within a run"
}

# What does not fit in the time is skipped, with what needs it, and said so.
# Each script says what it takes, and takes nothing else.
check_options()
{
	local s
	while read -r s; do
		"$s" -h >"$tmp/help"
		grep -q "^$(basename "$s")" "$tmp/help" || fail "$s -h does not say how it is called"
		says "no such option" "$s" --nothing
		grep -q '^words=' "$s" || says "takes no argument" "$s" nothing
	done < <(grep -l '^# shellcheck source=scripts/lib.sh' "$top"/scripts/*.sh)
	says "no such option" "$top/scripts/race.sh" --time
	says "KERNEL=nothing" "$top/scripts/boot.sh" --kernel=nothing --run true
}

check_budget()
{
	BUILD=$tmp/build XDG_CACHE_HOME=$tmp/cache BUDGET=5 \
		"$top/scripts/test.sh" kernel_stock boot apply_again >"$tmp/out" 2>&1 || true
	cat "$tmp/out"
	grep -qE '^skip kernel_stock: takes about [0-9]+ s here, of BUDGET=5' "$tmp/out" ||
		fail "a kernel is built in 5 s"
	grep -qx 'skip boot: kernel_stock was skipped' "$tmp/out" || fail "boots no kernel"
	tail -n 1 "$tmp/out" | grep -qx '0 passed, 1 failed, 2 skipped' || fail "another sum"
}

# Guests that QEMU breaks, once before the command starts, once while it runs; in the
# place of virtme-run a program that writes such consoles.
check_broken_guest()
{
	local status=0
	mkdir -p "$tmp/virtme/usr/bin"
	cat >"$tmp/virtme/usr/bin/virtme-run" <<-'END'
		#!/bin/bash
		console=$(printf '%s\n' "$@" | sed -n 's/^chardev.console.path=//p')
		n=$(($(cat "$COUNT" 2>/dev/null || echo 0) + 1))
		echo $n >"$COUNT"
		case $n in
		1) echo 'Oops: int3: 0000 [#1]' >"$console"; exit 1 ;;
		2) printf '%s\n' 'virtme-init: starting script' 'Oops: int3: 0000 [#1]' >"$console"
			echo half; exit 1 ;;
		11) echo 'PCI: Using configuration' >"$console"; exit 255 ;;
		21) echo 'PCI: Using configuration' >"$console"; exec sleep 600 ;;
		31) echo 'INFO: task kunit:1 blocked for more than 120 seconds' >"$console"; exit 255 ;;
		*) printf '%s\n' 'virtme-init: starting script' 'virtme-init: script returned' >"$console"
			echo whole; exit 7 ;;
		esac
	END
	chmod +x "$tmp/virtme/usr/bin/virtme-run"
	export COUNT=$tmp/count VIRTME=$tmp/virtme IMAGE=$tmp/count ACCEL=tcg NAME=test-broken \
		RUN=true RWDIR=$tmp
	echo 0 >"$COUNT"
	"$top/scripts/boot.sh" || status=$?
	[ $status -eq 126 ] || fail "status $status, not 126"
	[ "$(cat "$COUNT")" -eq 2 ] || fail "not booted again at once"
	echo 0 >"$COUNT"
	status=0
	run_guest "$tmp/out" "$top/scripts/boot.sh" || status=$?
	[ $status -eq 7 ] || fail "status $status, not that of the command"
	[ "$(cat "$tmp/out")" = whole ] || fail "the output of the broken run is kept"
	# QEMU crashes.
	echo 10 >"$COUNT"
	status=0
	"$top/scripts/boot.sh" || status=$?
	[ $status -eq 7 ] || fail "status $status, not that of the command, after QEMU crashed"
	# QEMU hangs.
	echo 20 >"$COUNT"
	status=0
	STALLED=1 "$top/scripts/boot.sh" || status=$?
	[ $status -eq 7 ] || fail "status $status, not that of the command, after QEMU hung"
	# The kernel hangs: that is not tried again.
	echo 30 >"$COUNT"
	status=0
	"$top/scripts/boot.sh" || status=$?
	[ $status -eq 125 ] || fail "status $status, not 125, after the kernel hung"
}

# Output, exit status, host files to read, one directory to write.
check_boot()
{
	local status=0 dir=$tmp/out
	mkdir -p "$dir"
	echo "of the host" >"$tmp/host"
	export RWDIR=$dir RUN="cat '$tmp/host'; echo error >&2; uname -r; cp '$tmp/host' '$dir/copy'
		touch '$tmp/guest'; exit 7"
	run_guest "$tmp/stdout" boot_stock boot 2>"$tmp/stderr" >/dev/null || status=$?
	cat "$tmp/stdout" "$tmp/stderr"
	[ "$status" -eq 7 ] || fail "exit status $status, not 7"
	[ "$(head -n 1 "$tmp/stdout")" = "of the host" ] || fail "the host's files are not readable"
	[[ $(sed -n 2p "$tmp/stdout") == "$(version)".* ]] || fail "no kernel of $(version)"
	[ "$(wc -l <"$tmp/stdout")" -eq 2 ] || fail "more on stdout than the command said"
	grep -qx error "$tmp/stderr" || fail "stderr is lost"
	cmp "$tmp/host" "$dir/copy"
	[ ! -e "$tmp/guest" ] || fail "the guest writes to the host's files"
	"$top/scripts/check-log.sh" "$build/log/console-test-boot.log"
}

check_boot_panic()
{
	says "guest died: Kernel panic" env KERNEL=stock NAME=test-panic \
		RUN='echo c >/proc/sysrq-trigger; sleep 100' "$top/scripts/boot.sh"
	grep -q 'sysrq' "$tmp/out" || fail "no console lines"
	if "$top/scripts/check-log.sh" "$build/log/console-test-panic.log"; then
		fail "check-log.sh sees nothing in the log of a panic"
	fi
}

check_boot_hang()
{
	says "time limit of 20 s reached" env KERNEL=stock NAME=test-hang TIMEOUT=20 \
		RUN='echo started; sleep 1000' "$top/scripts/boot.sh"
}

# A guest as one whose memory is not right any more: the command would run and nobody know.
check_boot_no_ports()
{
	says "guest died: it found no ports" env KERNEL=stock NAME=test-no-ports \
		APPEND=initcall_blacklist=virtio_console_init RUN=true "$top/scripts/boot.sh"
}

# What fails fast comes first, what needs no kernel before any kernel, the kernel with
# most of the tests before the others.
checks()
{
	cat <<-END
		packages 30
		shellcheck 5
		options 2
		patience 1
		pte_waste 3
		budget 2
		broken_guest 1
		source 40
		wrong_version 1
		no_version 1
		deb_arguments 1
		debian_get 1
		apply_again 1
		broken_patch 1
		variants 10
		port 10
		refresh 5
		series 3
		lost_symbol 6
		model 90
		litmus 60
		mutants_list 5
		32bit 40
		kernel_debug 330
		boot_off 35 kernel_debug
		kunit_x86 40 kernel_debug
		kunit_4_levels 40 kernel_debug
		selftest 80 kernel_debug
		race 60 kernel_debug
		race_no_refs 60 kernel_debug
		race_bad 120 kernel_debug
		race_pairs 210 kernel_debug
		kernel_stock 290
		boot 10 kernel_stock
		boot_panic 10 kernel_stock
		boot_hang 20 kernel_stock
		boot_no_ports 10 kernel_stock
		selftest_stock 65 kernel_stock
		pte_waste_stock 40 kernel_stock
		kernel_pte_ref 330 kernel_stock
		pte_waste_pte_ref 50 kernel_pte_ref
		selftest_production 70 kernel_pte_ref
		bench 170 kernel_pte_ref
		bench_limits 1 bench
		off 50 kernel_stock
		kunit_um 200
		kernel_arm64 330
		kunit_arm64 60 kernel_arm64
		selftest_arm64 100 kernel_arm64
		race_arm64 80 kernel_arm64
		kernel_arm64_64k 330
		kunit_arm64_64k 60 kernel_arm64_64k
		selftest_arm64_64k 120 kernel_arm64_64k
		race_arm64_64k 100 kernel_arm64_64k
	END
}

if [ "${1:-}" = --one ]; then
	"check_$2"
	exit
fi

# Each check says itself what it boots and builds.
forget BUDGET
start=$SECONDS
mkdir -p "$logs" "$cache"
lock test
rm -f "$build/slowness"
durations=$cache/durations${VERSION:+-$VERSION}
touch "$durations"
if [ $# -gt 0 ]; then
	for c; do
		declare -F "check_$c" >/dev/null || die "no check is called $c"
	done
	list=$(for c; do checks | grep "^$c " || echo "$c 600"; done)
else
	list=$(checks)
fi
number=0 before=0 all=0 long=0 long_took=0
total=$(wc -l <<<"$list")
while read -r name seconds _; do
	all=$((all + $(expected "$name" "$seconds")))
done <<<"$list"
while read -r -u 3 name seconds needed; do
	run "$name" "$seconds" "$needed"
done 3<<<"$list"
rm -rf "$tmp"
log "[test] $((SECONDS - start)) s"
read -ra words <<<"$skipped"
echo "$passed passed, $failed failed${skipped:+, ${#words[@]} skipped}"
[ "$failed" -eq 0 ] || exit 1
[ "$passed" -gt 0 ] || die "nothing ran"
