#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs stressors of stress-ng that fork, fault, zap, move and split, and exec, with allocations
# that fail now and then (failslab, fail_page_alloc; percpu memory is made of both where its
# allocation may wait), on stock and on pte_ref, for TIME seconds each (10). What is allocated
# without waiting, by kworkers or for percpu counters, KUnit refuses. These stressors make few
# refs, so hardly one of them is refused: that is NO_REFS=1 of race.sh. Whatever a stressor makes
# of ENOMEM, the kernel must not complain, and in the end page tables and refs must be gone.
# Arguments choose: stock, pte_ref. The kernels are those of scripts/mm-tests.sh.
set -euo pipefail
options='TIME'
words='[stock|pte_ref]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

time=${TIME:-10}
# Not mmap, of which one operation is so many mappings that it does not end, and not
# vm-splice, which is refused nothing.
stressors='fork fault madvise mremap mmapfork mmapmany munmap bigheap brk mmaphuge shm vm-segv
	pageswap'
[[ $time =~ ^[0-9]+$ ]] || die "TIME=$time: must be seconds"
[ $# -gt 0 ] || set -- stock pte_ref
need busybox stress-ng
lock faults

boot()	# KERNEL
{
	KERNEL=$1 NAME=faults-$1 \
		TIMEOUT=$(($(wc -w <<<"$stressors") * time * 6 + $(patience 600))) \
		RUN="exec '$top/scripts/faults-guest.sh' $1 $time $(xargs <<<"$stressors")" \
		"$top/scripts/boot.sh" 2>&1
}

bad=0
for kernel; do
	wide_kernel "$kernel"
	step faults "$kernel"
	wrong=$(run_guest "$build/log/faults-$kernel.log" boot "$kernel" >/dev/null ||
		tail -n 3 "$build/log/faults-$kernel.log"
		"$top/scripts/check-log.sh" "$build/log/console-faults-$kernel.log" 2>&1 || true)
	step_done
	result=$(grep '^injected: ' "$build/log/faults-$kernel.log" || true)
	if [ -z "$wrong" ] && [ -n "$result" ]; then
		echo "$kernel: passed; $result"
	else
		bad=$((bad + 1))
		log "$wrong"
		echo "$kernel: failed, see $build/log/faults-$kernel.log; $result"
	fi
done
[ $bad -eq 0 ]
