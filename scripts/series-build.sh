#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds mm/ fs/ kernel/ lib/ arch/x86/ after each commit of the series, with
# CONFIG_FREE_USER_PTE on and off, the same of arm64, and mm/ and arch/um/ of UML.
# TARGETS, ARM64_TARGETS and UM_TARGETS name fewer; FROM is the number of the commit to
# begin with.
set -euo pipefail
options='ARM64_TARGETS FROM TARGETS UM_TARGETS'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tree=$build/series-build/tree
export SRC=$tree
declare -A targets=([x86]="${TARGETS:-mm/ fs/ kernel/ lib/ arch/x86/}"
	[arm64]="${ARM64_TARGETS:-mm/ fs/ kernel/ lib/ arch/arm64/}")

mkdir -p "$build/series-build/um" "$build/log"
use_ccache
ARCH=arm64 "$top/scripts/packages.sh"
TREE=$tree "$top/scripts/tree.sh"
mapfile -t commits < <(git -C "$tree" rev-list --reverse pristine..pte_ref)
trap 'git -C "$tree" checkout -q -f pte_ref' EXIT
read -ra um_targets <<<"${UM_TARGETS:-mm/ arch/um/ kernel/fork.o lib/percpu-refcount.o}"
umlog=$build/log/series-build-um.log
um=(kmake -C "$tree" O="$build/series-build/um" ARCH=um "CC=$cc" "HOSTCC=$hostcc" -j"$(nproc)")

build_um()
{
	cp "$top/configs/um.kunitconfig" "$build/series-build/um/.config"
	"${um[@]}" olddefconfig &&
		"${um[@]}" "${um_targets[@]}"
}

# build_kernel ARCH DIR: with the option off, and on if that architecture has it yet.
build_kernel()
{
	local v values=n config
	if grep -q 'select ARCH_SUPPORTS_FREE_USER_PTE' "$tree/arch/$2/Kconfig"; then
		values='n y'
	fi
	for v in $values; do
		config=
		[ "$v" = n ] || config=FREE_USER_PTE=y
		ARCH=$1 PAGES=4k KERNEL=stock OUT=$build/series-build/$2-$v TARGETS=${targets[$2]} \
			EXTRA_CONFIG=$config "$top/scripts/kernel.sh" ||
			die "commit $n does not build for $1 with FREE_USER_PTE=$v: $(git -C "$tree" log -1 --format=%s)"
	done
}

n=0
for c in "${commits[@]}"; do
	n=$((n + 1))
	[ $n -ge "${FROM:-1}" ] || continue
	git -C "$tree" checkout -q -f "$c"
	log "[series-build] $n/${#commits[@]} $(git -C "$tree" log -1 --format=%s)"
	build_kernel x86_64 x86
	build_kernel arm64 arm64
	build_um </dev/null >"$umlog" 2>&1 ||
		die "commit $n does not build for UML, see $umlog: $(git -C "$tree" log -1 --format=%s "$c")"
done
log "[series-build] $((n - ${FROM:-1} + 1)) commits build"
