#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Do the tests notice when the code is wrong? Takes one argument of mm/pte_ref*.c and one fix
# of a caller after the other away, as scripts/mutants.list says, and runs the test that must
# fail then: a case of KUnit, on UML, or for what UML has not a test in a guest. "caught NAME
# by TEST" and how, or "MISSED NAME". What no test can see is in the list with the reason.
# With names only those.
# TEST: suites of KUnit to run instead, as kunit.py takes them; then all that fail are named.
# CHECK=1: whether each line of the list changes something, no more.
set -euo pipefail
options='CHECK JOBS SRC TEST'
words='[NAME]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

src=${SRC:-$build/src/pte_ref}
dir=$build/mutants
list=$top/scripts/mutants.list
missed=0

for name; do
	grep -q "^$name " "$list" || die "$list has no $name"
done
# Else make asks git, for each of them, whether this repository has changed.
export LOCALVERSION=
[ -f "$src/Makefile" ] || die "$src is missing: run make source"
need_space "$build" 1500
use_ccache
lock mutants
mkdir -p "$dir/log"

# The source that is changed now, and what was changed in it since all passed.
into=$dir/src
mutated()
{
	echo "${into%/src*}/mutated"
}

# replace FILE: by $dir/new. All of Linux includes a header of include/: that keeps its time,
# so that only the tests are built anew, which call its functions themselves.
replace()
{
	local f
	mv "$dir/new" "$into/$1"
	[[ $1 == include/* ]] || return 0
	touch -r "$src/$1" "$into/$1"
	for f in "$src"/lib/tests/pte_ref/*.c; do
		fresh "lib/tests/pte_ref/${f##*/}"
	done
}

fresh()	# FILE
{
	cp "$src/$1" "$dir/new"
	replace "$1"
}

# kunit NAME FILTER: fails if a test does, or the log of the kernel is bad.
kunit()
{
	FILTER=$2 KUNIT_CONFIG='' SRC=$dir/src OUT=$dir/um "$top/scripts/kunit.sh" \
		>>"$dir/log/$1" 2>&1
}

# Less than kunit.py builds.
compile()	# NAME
{
	kmake -C "$dir/src" O="$dir/um" ARCH=um CC="$cc" HOSTCC="$hostcc" -j"${JOBS:-$(nproc)}" linux \
		</dev/null >"$dir/log/$1" 2>&1 || die "$1 does not compile, see $dir/log/$1"
}

# path FILE: of the list, in the source.
path()
{
	[[ $1 == */* ]] && echo "$1" || echo "mm/$1.c"
}

# mutate FILE FUNCTION COMMAND: sed's command, within the function, into $dir/new.
mutate()
{
	sed "/^\([a-z].*[ *]\)\{0,1\}$2(.*[^;]\$/,/^}/{$3
	}" "$src/$1" >"$dir/new"
	if cmp -s "$src/$1" "$dir/new"; then
		die "$name changes nothing: $2() of $1 is not what it was, or the list is wrong"
	fi
}

# Tests in a guest, with the debug kernel: kunit:SUITE.CASE, selftest:CASE of pte_ref,
# race:VICTIM of pte_ref_race, norefs:VICTIM of it without memory for a ref.
guest_test()	# TEST
{
	case $1 in
	kunit:*) echo true ;;
	selftest:*) echo "'$build/selftest/$arch/pte_ref' -t '${1#*.}'" ;;
	race:*) echo "'$build/selftest/$arch/pte_ref_race' -v '${1#*.}'" ;;
	norefs:*) echo "'$build/selftest/$arch/pte_ref_race' -m -v '${1#*.}'" ;;
	*) die "$list: $1: no such kind of test" ;;
	esac
}

# guest NAME TEST...: builds the kernel of $guest and runs them; fails if one does, or the
# log of the kernel is bad.
guest()
{
	local log=$dir/log/$1-guest cases=() run test console=$build/log/console-mutant.log status=0
	shift
	# In a file: the command line of a kernel has no room for them all.
	run=$dir/run.sh
	{
		echo "'$top/scripts/guest-swap.sh' 64 >/dev/null && cd /tmp || exit"
		for test; do
			guest_test "$test"
		done
	} >"$run"
	for test; do
		[[ $test != kunit:* ]] || cases+=("${test#*:}")
	done
	# Several cases are of all suites.
	[ ${#cases[@]} -le 1 ] || cases=('p*_ref*')
	BUILD=$guest KERNEL=pte_ref DEBUG=1 "$top/scripts/kernel.sh" >"$log" 2>&1 ||
		die "a mutation does not compile, see $log"
	IMAGE=$(build=$guest kernel_image pte_ref 1) NAME=mutant TIMEOUT=$(patience 600) RUN="bash '$run'" \
		APPEND="${cases[*]:+kunit.enable=1 kunit.autorun=1 kunit.filter_glob=${cases[*]}}" \
		"$top/scripts/boot.sh" >>"$log" 2>&1 </dev/null || status=$?
	[ $status -ne 126 ] || die "QEMU broke a guest: run it again, see $log"
	[ ${#cases[@]} -eq 0 ] || grep -E '^(\[[^]]*\] )? *(not )?ok ' "$console" >>"$log"
	[ $status -eq 0 ] && ! grep -qE '^(\[[^]]*\] )? *not ok ' "$log" &&
		"$top/scripts/check-log.sh" "$console" >>"$log" 2>&1
}

# complaint LOG: the first thing that the kernel complained of; fails if there is none.
complaint()
{
	{ "$top/scripts/check-log.sh" "$1" 2>&1 || true; } | sed -n 2p | grep .
}

# passes NAME TEST...: the first of several tests that did not fail.
passes()
{
	local log=$dir/log/$1-guest test
	shift
	for test; do
		if ! grep -qE "not ok [0-9]+ (.*\.)?${test##*[:.]}(\s|\$)" "$log"; then
			echo "$test"
			return
		fi
	done
	return 1
}

# What a run left that did not come to its end is newer than the source.
all_fresh()
{
	local f
	touch "$(mutated)"
	for f in $(cd "$src" && sort -u <(ls mm/pte_ref*.c) "$(mutated)"); do
		fresh "$f"
	done
}

# Before an hour is spent on the lines above one that is out of date.
while read -r name file function test command; do
	case $name in
	'' | '#') ;;
	*) mutate "$(path "$file")" "$function" "$command" ;;
	esac
done <"$list"
[ -z "${CHECK:-}" ] || exit 0

# By links; what is changed is replaced by a new file, which make takes for newer.
rm -rf "$dir/src"
cp -al "$src" "$dir/src"
all_fresh
step mutants "none yet: all must pass"
rm -f "$dir/log"/*
start=$SECONDS
kunit none "${TEST:-p*_ref*}" || die "tests fail as it is, see $dir/log/none"
rm "$(mutated)"
step_done
# A case that there is not fails as well.
[ -n "${TEST:-}" ] || while read -r test; do
	grep -qE "\[PASSED\] ${test#*.}( |\$)" "$dir/log/none" || die "$list: there is no case $test"
done < <(awk '/^[^#]/ && $4 != "none" && $4 !~ /:/ { print $4 }' "$list" | sort -u)
# A case that takes longer than all of them hangs.
export TIMEOUT=$((SECONDS - start + 60))

# The tests in a guest that the chosen mutations name.
guest_tests()
{
	awk -v names=" $* " '/^[^#]/ && $4 ~ /:/ && (names == "  " || index(names, " " $1 " ")) {
		gsub(",", "\n", $4)
		print $4 }' "$list" | sort -u
}
guest=
guest_start()
{
	local test tests
	guest=$dir/guest
	rm -rf "$guest/src"
	mkdir -p "$guest/src"
	cp -al "$src" "$guest/src/pte_ref"
	cp "$build/src/stock.stamp" "$guest/src/"
	into=$guest/src/pte_ref
	all_fresh
	"$top/scripts/selftest-build.sh" pte_ref
	"$top/scripts/selftest-build.sh" pte_ref_race
	mapfile -t tests < <(guest_tests "$@")
	step mutants "none yet, in a guest: all must pass"
	guest none "${tests[@]}" || die "tests in a guest fail as it is, see $dir/log/none-guest"
	rm "$(mutated)"
	! grep '# SKIP' "$dir/log/none-guest" || die "a test in a guest is skipped"
	for test in "${tests[@]}"; do
		grep -qE "ok [0-9]+ (.*\.)?${test##*[:.]}\s*\$" "$dir/log/none-guest" ||
			die "$list: there is no test $test"
	done
	step_done
}

why=
while read -r -u 3 name file function test command; do
	case $name in
	'') why= ;;
	'#') why+="${why:+ }$file $function $test $command" ;;
	*)
		reason=$why
		why=
		[ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
		into=$dir/src
		if [[ -z ${TEST:-} && $test == *:* ]]; then
			[ -n "$guest" ] || guest_start "$@"
			into=$guest/src/pte_ref
		fi
		file=$(path "$file")
		mutate "$file" "$function" "$command"
		if [ "$test" = none ] && [ -z "${TEST:-}" ]; then
			echo "none $name: $reason"
			continue
		fi
		echo "$file" >>"$(mutated)"
		replace "$file"
		if [ "$into" != "$dir/src" ]; then
			IFS=, read -ra tests <<<"$test"
			if guest "$name" "${tests[@]}"; then
				missed=$((missed + 1))
				echo "MISSED $name: $reason"
			elif [ ${#tests[@]} -gt 1 ] && passed=$(passes "$name" "${tests[@]}"); then
				missed=$((missed + 1))
				echo "MISSED $name by $passed: $reason"
			else
				# The other ends that a guest may have can be this machine's.
				if how=$(grep -m 1 -oE 'not ok [0-9]* [^ ]*|guest died: Kernel panic.*' \
					"$dir/log/$name-guest" || complaint "$build/log/console-mutant.log"); then
					echo "caught $name by $test: $how"
				else
					how=$(grep -m 1 -oE 'guest (died|ended).*|time limit of .*' "$dir/log/$name-guest") ||
						die "$name: $test did not run, see $dir/log/$name-guest"
					missed=$((missed + 1))
					echo "MISSED $name: $test did not fail, but: $how"
				fi
			fi
		elif compile "$name" && BUILT=1 kunit "$name" "${TEST:-$test}"; then
			missed=$((missed + 1))
			echo "MISSED $name: $reason"
		else
			how=$(sed -nE 's/.*\[(FAILED|CRASHED)\] ([^ ]*).*/\1 \2/p' "$dir/log/$name" |
				awk '!seen[$0]++' | xargs)
			[ -n "$how" ] || how=$(grep -m 1 -o 'time limit of .*' "$dir/log/$name" ||
				complaint "$dir/um/test.log") ||
				die "$name: ${TEST:-$test} did not run, see $dir/log/$name"
			echo "caught $name by ${TEST:-$test}: $how"
		fi
		fresh "$file"
		;;
	esac
done 3<"$list"
[ $missed -eq 0 ] || die "$missed mutations are missed"
