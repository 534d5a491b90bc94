#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs pte_ref_load in a guest, which does all that writes page table entries, at once and
# on the same tables, for TIME seconds (60), a part of it with the random numbers of each SEED
# (1 2 3); swap is turned off and on meanwhile. Then those stressors of stress-ng that STRESS
# names, each for STRESS_TIME seconds (4; 0: none). The kernel is the debug kernel with what
# configs/wide.config adds, or IMAGE. NO_THP=1: that of check-all.sh for PREEMPT_RT, which has
# no huge pages and does not balance NUMA nodes.
set -euo pipefail
options='APPEND IMAGE KERNEL NO_THP PROCESSES SEED STRESS STRESS_TIME THREADS TIME'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

kernel=${KERNEL:-pte_ref}
time=${TIME:-60}
read -rd '' -a seeds <<<"${SEED:-1 2 3}" || true
stress_time=${STRESS_TIME:-4}
# Those of its class vm, and more that change mappings. Not swap, which wants swap files on a
# file system that can have none, nor what stress-ng does without --pathological only.
if [ "$stress_time" = 0 ]; then
	stressors=()
elif [ -n "${STRESS:-}" ]; then
	read -rd '' -a stressors <<<"$STRESS" || true
else
	need stress-ng
	mapfile -t stressors < <(stress-ng --class 'vm?' | sed 's/.*: //' | xargs -n 1 |
		grep -vxE 'watchdog|swap|mlockmany'
		printf '%s\n' fault fork memfd mincore remap zero)
	[ ${#stressors[@]} -gt 30 ] || die "stress-ng names ${#stressors[@]} stressors only"
fi
args=(-t $(((time + ${#seeds[@]} - 1) / ${#seeds[@]})) -p "${PROCESSES:-2}" -n "${THREADS:-4}")
prog=$build/selftest/$arch/pte_ref_load
output=$build/log/load-$kernel.log
console=$build/log/console-load-$kernel.log

for number in "$time" "$stress_time" "${seeds[@]}"; do
	[[ $number =~ ^[0-9]+$ ]] || die "TIME, SEED and STRESS_TIME must be numbers"
done
need losetup mkswap swapon swapoff
[ "$stress_time" = 0 ] || need stress-ng
lock load
[ -n "${IMAGE:-}" ] || wide_kernel "$kernel"
"$top/scripts/selftest-build.sh" pte_ref_load

# shellcheck disable=SC2317	# called by run_guest
boot()
{
	KERNEL=$kernel NAME=load-$kernel APPEND="numa=fake=2 movablecore=512M ${APPEND:-}" \
		TIMEOUT=$((10 * time + ${#seeds[@]} * 300 + ${#stressors[@]} * stress_time * 6 +
			$(patience 600))) \
		RUN="exec '$top/scripts/load-guest.sh' $stress_time '${stressors[*]}' '${seeds[*]}' \
			'$prog' ${args[*]}" \
		"$top/scripts/boot.sh" 2>&1
}

bad=0
verdict()	# PART LINES: what is wrong, none if nothing is
{
	if [ -z "$2" ]; then
		echo "$1: passed"
	else
		bad=$((bad + 1))
		log "$2"
		echo "$1: failed, see $output"
	fi
}

# What stock does not count is not asked of it.
lacks='# SKIP' may_lack='^$'
[ "$kernel" = pte_ref ] || lacks='^$'
[ -z "${NO_THP:-}" ] || may_lack='not set: .*/(sched/)?numa_balancing|SKIP (MADV_COLLAPSE|THP split|thp_[a-z_]*|numa_hint_faults|pgmigrate_success): '
step load "$kernel: $time s with ${#seeds[@]} seeds, then ${#stressors[@]} stressors for $stress_time s each"
status=0
run_guest "$output" boot >/dev/null || status=$?
step_done
verdict "load, seed ${seeds[*]}" "$(grep -E "^not ok |$lacks|^# seed [0-9]+: |^# not set: " "$output" |
	grep -vE "$may_lack" || true
	for s in "${seeds[@]}"; do
		grep -q "^# load, seed $s: status 0" "$output" ||
			grep "^# load, seed $s: " "$output" || tail -n 3 "$output"
	done)"
verdict "stress-ng, $(grep -c '^# stress-ng: .*: status 0$' "$output" || true) stressors" \
	"$([ "$stress_time" = 0 ] || for s in "${stressors[@]}"; do
		grep "^# stress-ng: $s: did nothing" "$output" ||
			grep -q "^# stress-ng: $s: status 0$" "$output" ||
			grep "^# stress-ng: $s: " "$output" || echo "$s: did not run"
	done)"
verdict "swap off $(grep -c '^# swap was off' "$output" || true) times, end of the guest" \
	"$([ $status -eq 0 ] || echo "status $status"
	grep -q '^# swap was off' "$output" || echo "swap could not be turned off"
	grep -q '^# swapoff: status 0' "$output" || echo "swap is left")"
verdict "memory hotplug, $(grep -c '^# hotplug: ' "$output" || true) times" \
	"$(grep -q '^# hotplug: ' "$output" || echo "no block of memory could be turned off")"
verdict "console" "$("$top/scripts/check-log.sh" "$console" 2>&1 || true)"
[ $bad -eq 0 ]
