#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs pte_ref_race in a guest: callers that work on a PTE table, each with the table
# taken away from it. Without TIME one caller after the other, at each point where it
# can meet that (fault injection); with TIME for so many seconds per group of callers, and
# a second for each pair at least, against threads that empty and free the table. GROUP
# names one group. NO_REFS=1, without TIME: there is no memory for a ref. OFF=1, with TIME:
# pte_ref=off, so that only CONFIG_PT_RECLAIM frees tables. NO_THP=1: the kernel has no
# huge pages. HMM=1: it has a device with memory of its own. WAIT: seconds after which a case
# without progress is said not to end (10).
set -euo pipefail
options='APPEND ARCH CPU DEBUG GROUP HMM KERNEL NO_REFS NO_THP OFF PAGES TIME WAIT'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

kernel=${KERNEL:-pte_ref}
debug=${DEBUG:-1}
time=${TIME:-}
prog=$build/selftest/$arch/pte_ref_race
name=race-$kernel-$debug${time:+-$time}${NO_REFS:+-no-refs}${OFF:+-off}
output=$build/log/$name$flavour.log
args=(-w "$(patience "${WAIT:-10}")")

[[ $time =~ ^[0-9]*$ ]] || die "TIME=$time: must be seconds"
[ -z "$time" ] || args+=(-t "$time")
if [ -n "${NO_REFS:-}" ]; then
	[ -z "$time" ] || die "NO_REFS=1 is for a run without TIME"
	args+=(-m)
fi
if [ -n "${OFF:-}" ]; then
	[ -n "$time" ] || die "OFF=1 is for a run with TIME"
	export APPEND="${APPEND:-} pte_ref=off"
fi
[ -z "${GROUP:-}" ] || args+=(-g "$GROUP")
[ -n "$time" ] || { [ "$kernel" = pte_ref ] && [ "$debug" != 0 ]; } ||
	die "without TIME it takes a debug kernel"
lock race
"$top/scripts/selftest-build.sh" pte_ref_race
# Also what runs on another machine tells here how many pairs it has.
list=$prog
if [ -n "$cross" ]; then
	ARCH=$(uname -m) PAGES='' "$top/scripts/selftest-build.sh" pte_ref_race
	list=$build/selftest/$(uname -m)/pte_ref_race
fi
seconds=0
if [ -n "$time" ]; then
	seconds=$("$list" -l ${GROUP:+-g "$GROUP"} | awk -v time="$time" '{ pairs[$1]++ }
		END { for (g in pairs) all += pairs[g] > time ? pairs[g] : time; print all }')
fi

step race "$kernel, DEBUG=$debug${time:+, $time s for each group, $seconds s in all}"
# shellcheck disable=SC2317	# called by run_guest
boot()
{
	KERNEL=$kernel DEBUG=$debug NAME=$name \
		TIMEOUT=$((seconds * 3 / 2 + $(patience 1200))) \
		RUN="cd /tmp && exec '$prog' ${args[*]}" "$top/scripts/boot.sh" 2>&1
}
status=0
run_guest "$output" boot || status=$?
step_done
# Whatever a case may lack, the test kernels have it, but huge pages of a size to test,
# what an older CPU has not, and a device with memory, which is of configs/wide.config.
may_skip='a huge page has'
[ -n "${HMM:-}" ] || may_skip+='|no CONFIG_TEST_HMM'
[ -z "${CPU:-}" ] || may_skip+='|no accessed bit of the CPU'
[ -z "${NO_THP:-}" ] || may_skip+='|no transparent huge pages|no huge pages of the device|no folios of [0-9]+ pages'
# The driver of the tests is in the debug kernels only.
[ "$debug" != 0 ] || may_skip+='|no CONFIG_TEST_VM_INSERT'
[ "$kernel" != stock ] || may_skip+='|Linux collapses an empty table'
if grep '# SKIP' "$output" | grep -vE "$may_skip" >&2; then
	status=1
fi
if [ "$kernel" = pte_ref ] && grep 'does not count the tables' "$output" >&2; then
	status=1
fi
# Where no table is counted a pair passes though none is freed.
if [ "${OFF:+off}" != "$(sed -n 's/.*pte_ref= turns it off.*/off/p' "$output")" ]; then
	log "race.sh: pte_ref is ${OFF:+not }turned off, against what was asked for"
	status=1
fi
"$top/scripts/check-log.sh" "$build/log/console-$name$flavour.log" || status=1
exit $status
