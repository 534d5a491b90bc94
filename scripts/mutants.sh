#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Do the KUnit suites notice when the code is wrong? Takes one argument of mm/pte_ref*.c
# after the other away, as scripts/mutants.list says, builds UML and runs the case that
# must fail then: "caught NAME by SUITE.CASE" and how, or "MISSED NAME". What no case can
# see is in the list with the reason. With names only those. TEST: suites to run instead, as
# kunit.py takes them; then all that fail are named.
set -euo pipefail
options='JOBS SRC TEST'
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

# By links; what is changed is replaced by a new file, which make takes for newer.
rm -rf "$dir/src"
cp -al "$src" "$dir/src"
fresh()	# FILE
{
	cp "$src/$1" "$dir/new"
	mv "$dir/new" "$dir/src/$1"
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

# mutate FILE FUNCTION COMMAND: sed's command, within the function.
mutate()
{
	sed "/^[a-z].*[ *]$2(.*[^;]\$/,/^}/{$3
	}" "$src/$1" >"$dir/new"
	if cmp -s "$src/$1" "$dir/new"; then
		die "$name changes nothing: $2() of $1 is not what it was, or the list is wrong"
	fi
	mv "$dir/new" "$dir/src/$1"
}

for f in "$src"/mm/pte_ref*.c; do
	fresh "mm/${f##*/}"
done
step mutants "none yet: all must pass"
rm -f "$dir/log"/*
start=$SECONDS
kunit none "${TEST:-pte_ref_*}" || die "tests fail as it is, see $dir/log/none"
step_done
# A case that there is not fails as well.
[ -n "${TEST:-}" ] || while read -r test; do
	grep -qE "\[PASSED\] ${test#*.}( |\$)" "$dir/log/none" || die "$list: there is no case $test"
done < <(awk '/^[^#]/ && $4 != "none" { print $4 }' "$list" | sort -u)
# A case that takes longer than all of them hangs.
export TIMEOUT=$((SECONDS - start + 60))

why=
while read -r -u 3 name file function test command; do
	case $name in
	'') why= ;;
	'#') why+="${why:+ }$file $function $test $command" ;;
	*)
		reason=$why
		why=
		[ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
		mutate "mm/$file.c" "$function" "$command"
		if [ "$test" = none ] && [ -z "${TEST:-}" ]; then
			echo "none $name: $reason"
		elif compile "$name" && BUILT=1 kunit "$name" "${TEST:-$test}"; then
			missed=$((missed + 1))
			echo "MISSED $name: $reason"
		else
			how=$(sed -nE 's/.*\[(FAILED|CRASHED)\] ([^ ]*).*/\1 \2/p' "$dir/log/$name" |
				awk '!seen[$0]++' | xargs)
			echo "caught $name by ${TEST:-$test}: ${how:-the log of the kernel, or its end}"
		fi
		fresh "mm/$file.c"
		;;
	esac
done 3<"$list"
[ $missed -eq 0 ] || die "$missed mutations are missed"
