#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# After each commit of the series: builds what the series edits, with CONFIG_FREE_USER_PTE
# on and off, for x86_64 and arm64, and mm/ and arch/um/ of UML. After the last commit of
# each part: mm/ fs/ kernel/ lib/ arch/x86/ as well. ALL=1 builds those after each commit.
# FROM is the number of the commit to begin with.
set -euo pipefail
options='ALL FROM'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tree=$build/series-build/tree
export SRC=$tree
mkdir -p "$build/series-build/um" "$build/log"
use_ccache
ARCH=arm64 "$top/scripts/packages.sh"
TREE=$tree "$top/scripts/tree.sh"
mapfile -t commits < <(git -C "$tree" rev-list --reverse pristine..pte_ref)
trap 'git -C "$tree" checkout -q -f pte_ref' EXIT
umlog=$build/log/series-build-um.log
um=(kmake -C "$tree" O="$build/series-build/um" ARCH=um "CC=$cc" "HOSTCC=$hostcc" -j"$(nproc)")

# The commits that end a part.
mapfile -t firsts < <(sed -e 's/#.*//' -e '/^ *$/d' "$top/patches/parts" | awk 'NR > 1 { print $2 }')
ends=" $(git -C "$tree" rev-parse pte_ref)"
for c in "${commits[@]}"; do
	name=$(git -C "$tree" log -1 --format=%f "$c")
	for p in "${firsts[@]}"; do
		# git format-patch cuts a name at 52 characters.
		[ "${name:0:52}" != "$(basename "$p" .patch)" ] || ends+=" $(git -C "$tree" rev-parse "$c^")"
	done
done
[ "$(wc -w <<<"$ends")" -eq $((${#firsts[@]} + 1)) ] || die "patches/parts names a patch that the series has not"

# objects DIR...: of the files that the series edits or brings, and that are there now.
# Not those that this configuration cannot build: make test and make check-deb do.
objects()
{
	local f
	git -C "$tree" diff --name-only pristine pte_ref -- "${@/%//*.c}" \
		':!lib/test*' ':!mm/fail_*' ':!arch/x86/kernel/cpu/sgx' |
		while read -r f; do
			[ ! -f "$tree/$f" ] || echo "${f%.c}.o"
		done
}

build_um()
{
	cp "$top/configs/um.kunitconfig" "$build/series-build/um/.config"
	"${um[@]}" olddefconfig &&
		"${um[@]}" mm/ arch/um/ kernel/fork.o lib/percpu-refcount.o
}

# build_kernel ARCH DIR: with the option off, and on if that architecture has it yet.
build_kernel()
{
	local v values=n config targets
	if grep -q 'select ARCH_SUPPORTS_FREE_USER_PTE' "$tree/arch/$2/Kconfig"; then
		values='n y'
	fi
	for v in $values; do
		config=
		[ "$v" = n ] || config=FREE_USER_PTE=y
		targets=$(objects mm fs kernel lib "arch/$2")
		[ "$v" = y ] || targets=$(grep -v '^mm/pte_ref' <<<"$targets")
		if [ -n "${ALL:-}" ] || { [ "$2" = x86 ] && [[ $ends == *" $c"* ]]; }; then
			targets="mm/ fs/ kernel/ lib/ arch/$2/"
		fi
		ARCH=$1 PAGES=4k KERNEL=stock OUT=$build/series-build/$2-$v TARGETS=${targets//$'\n'/ } \
			EXTRA_CONFIG=$config "$top/scripts/kernel.sh" ||
			die "commit $n does not build for $1 with FREE_USER_PTE=$v: $(git -C "$tree" log -1 --format=%s)"
	done
}

[ "${FROM:-1}" -le ${#commits[@]} ] || die "FROM=$FROM: the series has ${#commits[@]} commits"
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
