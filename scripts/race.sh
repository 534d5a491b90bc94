#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs pte_ref_race in a guest: callers that work on a PTE table, each with the table
# taken away from it. Without TIME one caller after the other, at each point where it
# can meet that (fault injection); with TIME for so many seconds per group of callers,
# against threads that empty and free the table. GROUP names one group.
set -euo pipefail
options='ARCH CPU DEBUG GROUP KERNEL PAGES TIME'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

kernel=${KERNEL:-pte_ref}
debug=${DEBUG:-1}
time=${TIME:-}
prog=$build/selftest/$arch/pte_ref_race
name=race-$kernel-$debug${time:+-$time}
output=$build/log/$name$flavour.log
args=(-w "$(patience 10)")

[[ $time =~ ^[0-9]*$ ]] || die "TIME=$time: must be seconds"
[ -z "$time" ] || args+=(-t "$time")
[ -z "${GROUP:-}" ] || args+=(-g "$GROUP")
lock race
"$top/scripts/selftest-build.sh" pte_ref_race
list=$prog
if [ -n "$cross" ]; then
	ARCH=$(uname -m) PAGES='' "$top/scripts/selftest-build.sh" pte_ref_race
	list=$build/selftest/$(uname -m)/pte_ref_race
fi
groups=$("$list" -l | cut -d' ' -f1 | sort -u | wc -l)

step race "$kernel, DEBUG=$debug${time:+, $time s for each of up to $groups groups}"
# shellcheck disable=SC2317	# called by run_guest
boot()
{
	KERNEL=$kernel DEBUG=$debug NAME=$name \
		TIMEOUT=$((groups * ${time:-0} * 3 / 2 + $(patience 1200))) \
		RUN="cd /tmp && exec '$prog' ${args[*]}" "$top/scripts/boot.sh" 2>&1
}
status=0
run_guest "$output" boot || status=$?
step_done
# Whatever a case may lack, the test kernels have it.
if [ "$kernel" = pte_ref ] && [ "$debug" != 0 ] && grep '# SKIP' "$output" >&2; then
	status=1
fi
"$top/scripts/check-log.sh" "$build/log/console-$name$flavour.log" || status=1
exit $status
