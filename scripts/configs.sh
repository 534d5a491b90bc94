#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Compiles mm/ and what else the series edits in configurations that no guest has: without
# what the code of the series refers to, and with what the lean configuration leaves out.
# With names only those.
set -euo pipefail
options='JOBS'
words='[NAME]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

targets='mm/ fs/proc/ kernel/fork.o kernel/events/ lib/percpu-refcount.o arch/x86/mm/ arch/x86/entry/vdso/'
failed=0 ran=0
chosen=" $* "

while read -r name symbols; do
	[[ $chosen == "  " || $chosen == *" $name "* ]] || continue
	ran=$((ran + 1))
	# A warning is an error: else it would not be there when the same is built again.
	if KERNEL=pte_ref DEBUG=0 OUT=$build/kernel-config EXTRA_CONFIG="WERROR=y $symbols" \
		TARGETS=$targets "$top/scripts/kernel.sh" &&
		[ ! -s "$build/log/kernel-config.build.log" ]; then
		echo "ok $name"
	else
		echo "FAIL $name"
		grep -m 5 -E 'warning:|error:' "$build/log/kernel-config.build.log" || true
		failed=$((failed + 1))
	fi
done <<-END
	no_thp TRANSPARENT_HUGEPAGE=n TRANSPARENT_HUGEPAGE_MADVISE=n
	no_swap SWAP=n TRANSPARENT_HUGEPAGE=n TRANSPARENT_HUGEPAGE_MADVISE=n MIGRATION=n COMPACTION=n NUMA=n X86_64_ACPI_NUMA=n KSM=n
	no_uffd USERFAULTFD=n PTE_MARKER_UFFD_WP=n
	no_hugetlb HUGETLBFS=n
	no_memcg MEMCG=n LRU_GEN=n
	no_counters VM_EVENT_COUNTERS=n MEMCG=n FTRACE=n ENABLE_DEFAULT_TRACERS=n
	no_proc PROC_PAGE_MONITOR=n
	no_split NR_CPUS=2
	no_pte_ref FREE_USER_PTE=n
	rt PREEMPT_RT=y TRANSPARENT_HUGEPAGE=n TRANSPARENT_HUGEPAGE_MADVISE=n
	32bit_programs IA32_EMULATION=y X86_X32_ABI=y
	xen XEN=y XEN_PV=y
	devices MEMORY_HOTPLUG=y MEMORY_HOTREMOVE=y ZONE_DEVICE=y DEVICE_PRIVATE=y
	tracking CHECKPOINT_RESTORE=y MEM_SOFT_DIRTY=y X86_MCE=y MEMORY_FAILURE=y UPROBE_EVENTS=y PROFILING=y NUMA_MIGRATION=y NUMA_BALANCING=y
END

# An architecture without the option, where pmd_none() takes the address of what it is given.
m68k()
{
	local cross=m68k-linux-gnu- cc make out=$build/kernel-m68k
	local symbols=(MMU VIRT M68040 WERROR SHMEM SWAP PROC_FS USERFAULTFD)
	use_ccache
	mkdir -p "$out"
	printf 'CONFIG_%s=y\n' "${symbols[@]}" >"$out/wanted"
	make=(kmake -C "$build/src/pte_ref" O="$out" ARCH=m68k CROSS_COMPILE="$cross" CC="$cc"
		-j"${JOBS:-$(nproc)}")
	"${make[@]}" KCONFIG_ALLCONFIG="$out/wanted" allnoconfig && "${make[@]}" mm/ fs/proc/
}
if [[ $chosen == "  " || $chosen == *" m68k "* ]]; then
	ran=$((ran + 1))
	"$top/scripts/packages.sh" configs
	if m68k </dev/null >"$build/log/m68k.build.log" 2>&1; then
		echo "ok m68k"
	else
		echo "FAIL m68k"
		grep -m 5 -E 'warning:|error:' "$build/log/m68k.build.log" || true
		failed=$((failed + 1))
	fi
fi
[ $# -eq 0 ] || [ $ran -eq $# ] || die "there are not all of: $*"
[ $failed -eq 0 ] || die "$failed configurations do not compile, or not without warnings"
