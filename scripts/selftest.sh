#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the kselftest of mm in a guest, with the kernel pte_ref, where all of it must
# pass, and with stock, where each case of "reclaim" must fail because tables are
# kept, but the one that CONFIG_PT_RECLAIM knows, and all else must pass. Arguments
# choose: pte_ref, stock. The output of the program is kept in BUILD/log.
set -euo pipefail
options='ARCH CPU MTE NO_THP PAGES TIMEOUT'
words='[pte_ref|stock]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

prog=$build/selftest/$arch/pte_ref
# These pass on stock, the second one on 7.2, where reclaim of a huge page did not split
# it; and this one needs what stock lacks.
pt_reclaim=" reclaim.aligned "
version=$(version) || exit 1
[ "$version" != 7.2 ] || pt_reclaim+="reclaim.thp_madv_free "
skipped=" data.no_growth data.passing_zero "
# What the machine of a guest has or not; MTE=1 says that it has tags for memory, NO_THP=1
# that the kernel has no huge pages.
case $arch in
x86_64)
	lacks=" data.cont_hugetlb data.cont_hugetlb_moved "
	# QEMU has five levels of page tables, the CPU of a KVM guest may not.
	if [[ " ${APPEND:-} " == *" no5lvl "* ]] ||
		{ [ -w /dev/kvm ] && ! grep -qw la57 /proc/cpuinfo; }; then
		lacks+=" reclaim.high_address "
	fi
	;;
arm64) lacks=" data.mte " ;;
esac
[ -z "${MTE:-}" ] || lacks=
if [ -n "${NO_THP:-}" ]; then
	lacks+=" reclaim.thp_split reclaim.thp_madv_free reclaim.thp_collapsed"
	lacks+=" data.fork_truncate data.thp data.thp_shmem data.thp_stays_small "
fi
# A huge page of 512 MiB is none of a file.
[[ $pages != 64k* ]] || lacks+=" data.thp_shmem "
# Two levels of tables have no PMD table, and 42 bits of address; older CPUs have 48.
[ "$pages" != 64k-va42 ] || lacks+=" reclaim.mremap_pmd_table reclaim.mremap_pmd_table_noted reclaim.high_address "
[ -z "${CPU:-}" ] || lacks+=" reclaim.high_address "

need losetup mkswap swapon
lock selftest
"$top/scripts/selftest-build.sh" pte_ref

# In the guest: swap, then the program.
guest="'$top/scripts/guest-swap.sh' 64 >/dev/null && cd /tmp && exec '$prog'"

boot()	# KERNEL
{
	KERNEL=$1 NAME=selftest-$1 TIMEOUT=${TIMEOUT:-$(patience 900)} RUN=$guest \
		"$top/scripts/boot.sh" 2>&1
}

# verdict KERNEL OUTPUT: what is wrong with a run, one to a line.
verdict()
{
	awk -v kernel="$1" -v aligned="$pt_reclaim" -v skipped="$skipped" -v lacks="$lacks" '
		/^# .*:[0-9]+:.* tables kept$/ {
			sub(/:[0-9]+ tables kept$/, "")
			sub(/.*:/, "")
			kept[$0] = 1
		}
		/^# [^ ]*:[0-9]+:[a-z_]+:/ { why = $0; sub(/^# .*\//, "", why) }
		/^# [^ ]*: Test terminated (by timeout|unexpectedly)/ { why = substr($0, 3) }
		/^1\.\.[0-9]+$/ { plan = substr($0, 4) + 0 }
		/^(not )?ok / {
			ran++
			reason = why
			why = ""
			ok = $1 == "ok"
			name = ok ? $3 : $4
			skip = /# SKIP/
			test = name
			sub(/^[a-z]+\./, "", test)
			must_fail = kernel == "stock" && name ~ /^reclaim\./ &&
				!index(aligned, " " name " ")
			if (skip && index(lacks, " " name " "))
				next
			if (skip && !(kernel == "stock" && index(skipped, " " name " ")))
				print name ": skipped:" substr($0, index($0, "# SKIP") + 6)
			else if (ok && must_fail)
				print name ": passes without pte_ref"
			else if (!ok && !must_fail)
				print name ": failed: " (reason ? reason : "see its output")
			else if (!ok)
				failed[name] = test
		}
		END {
			# What a child of a case says may come after its result.
			for (name in failed)
				if (!(failed[name] in kept))
					print name ": failed, but not because tables are kept"
			if (!plan || ran != plan)
				printf "%d of %d cases have a result\n", ran, plan
		}' "$2"
}

[ $# -gt 0 ] || set -- pte_ref stock
bad=0
for kernel; do
	output=$build/log/selftest-$kernel$flavour.log
	console=$build/log/console-selftest-$kernel$flavour.log
	status=0
	step selftest "$kernel"
	run_guest "$output" boot "$kernel" >/dev/null || status=$?
	step_done
	wrong=$(
		verdict "$kernel" "$output"
		[ $status -lt 124 ] || tail -n 1 "$output"
		"$top/scripts/check-log.sh" "$console" 2>&1 || true
	)
	passed=$(grep -cE '^ok ' "$output" || true)
	failed=$(grep -cE '^not ok ' "$output" || true)
	if [ -z "$wrong" ]; then
		echo "$kernel: as it must be: $passed cases pass, $failed fail"
	else
		bad=$((bad + 1))
		log "$wrong"
		echo "$kernel: wrong: $passed cases pass, $failed fail, see $output"
	fi
done
[ $bad -eq 0 ]
