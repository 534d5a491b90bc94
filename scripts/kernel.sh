#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds BUILD/kernel-KERNEL[-ARCH][-PAGES][-debug|-kasan] from the prepared source,
# for this machine or, across, for another one, ARCH=. TARGETS names other make
# targets, such as mm/. BASE is a whole configuration to start from, instead of the lean
# one; FRAGMENTS names more of configs/.
set -euo pipefail
options='ARCH BASE DEBUG EXTRA_CONFIG FRAGMENTS JOBS KERNEL OUT PAGES SRC TARGETS'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

kernel=${KERNEL:-pte_ref}
debug=${DEBUG:-0}
src=${SRC:-$build/src/$kernel}
out=${OUT:-$(kernel_dir "$kernel" "$debug")}
name=$(basename "$out")
logfile=$build/log/$name.build.log
read -ra targets <<<"${TARGETS:-$kimage}"
base=${BASE:-}
read -ra more <<<"${FRAGMENTS:-}"
# Symbols for this build only, as SYMBOL=value words.
read -ra extra <<<"${EXTRA_CONFIG:-}"

[ -z "$base" ] || [ -r "$base" ] || die "BASE=$base: there is no such file"
[ -f "$src/Makefile" ] || die "$src is missing: run make source"
need make gcc "${cross}gcc" bc flex bison sha256sum

fragments=()
[ -n "$base" ] || fragments=(guest "$arch")
v=$(version) || exit 1
[ ! -f "$top/configs/$v.config" ] || fragments=("$v" "${fragments[@]}")
[ "$pages" = 4k ] || fragments+=("$arch-$pages")
if [ "$kernel" = pte_ref ]; then
	fragments+=(pte_ref)
fi
case $debug in
0) ;;
1) fragments+=(debug) ;;
kasan) fragments+=(debug kasan) ;;
*) die "DEBUG=$debug: must be 1 or kasan" ;;
esac
if [ "$kernel" = pte_ref ] && [ "$debug" != 0 ]; then
	fragments+=(pte_ref-debug)
fi
fragments+=("${more[@]}")

fragments=("${fragments[@]/#/$top/configs/}")
fragments=("${fragments[@]/%/.config}")

use_ccache
args=(-C "$src" "O=$out" "ARCH=$arch" "CROSS_COMPILE=$cross" "CC=$cc" "HOSTCC=$hostcc"
	KBUILD_BUILD_USER=build KBUILD_BUILD_HOST=build
	"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970")
# ccache does not see what .incbin reads. It would take the compressed kernel of another
# build for this one's, if both have the same size; an option that it does not know keeps
# it away.
[ "$srcarch" != x86 ] || args+=(AFLAGS_piggy.o=-save-temps=obj)

# The wanted symbols; the last fragment that names one wins.
wanted()
{
	{
		cat "${fragments[@]}" /dev/null | sed -n '/^CONFIG_/p'
		[ ${#extra[@]} -eq 0 ] || printf 'CONFIG_%s\n' "${extra[@]}"
	} | awk -F= '!($1 in v) { order[++n] = $1 } { v[$1] = $0 }
		END { for (i = 1; i <= n; i++) print v[order[i]] }'
}

# Those of them that did not come out as asked for.
lost()
{
	local k v got
	while IFS='=' read -r k v; do
		got=$(sed -n "s/^$k=//p" "$out/.config")
		[ "${got:-n}" = "$v" ] || printf ' %s=%s' "$k" "$v"
	done < <(wanted)
}

# What a configuration depends on.
config_id()
{
	wanted
	[ -z "$base" ] || sha256sum <"$base"
	"${cross}gcc" --version | head -n 1
	find "$src" -name 'Kconfig*' -type f -print0 | sort -z | xargs -0 cat | sha256sum
}

configure()
{
	local id missing
	id=$(config_id)
	if [ -f "$out/.config" ] && [ "$id" = "$(cat "$out/.config.id" 2>/dev/null)" ]; then
		return
	fi
	rm -f "$out/.config.id"
	wanted >"$out/.wanted"
	if [ -n "$base" ]; then
		# Keys that only the builder of that configuration has: Linux makes its own.
		sed -E '/^CONFIG_(SYSTEM_TRUSTED_KEYS|SYSTEM_REVOCATION_KEYS|MODULE_SIG_KEY)=/d' "$base" |
			cat - "$out/.wanted" >"$out/.config"
		kmake "${args[@]}" olddefconfig
	else
		kmake "${args[@]}" KCONFIG_ALLCONFIG="$out/.wanted" allnoconfig
	fi >"$logfile" 2>&1 ||
		die "configuring $name failed, see $logfile: $(tail -n 1 "$logfile")"
	missing=$(lost)
	[ -z "$missing" ] || die "this kernel does not take from configs/:$missing"
	echo "$id" >"$out/.config.id"
}

# The image that was built boots the kernel that was built.
check_image()
{
	local piggy=$out/arch/x86/boot/compressed/piggy compressed
	compressed=$(sed -n 's/^\.incbin "\(.*\)"/\1/p' "$piggy.S")
	objcopy -O binary -j .rodata..compressed "$piggy.o" "$piggy.bin"
	cmp -s "$out/$compressed" "$piggy.bin" ||
		die "$name: the image has another kernel in it: rm -r $out"
}

mkdir -p "$build/log"
lock "$name"
need_space "$build" 1500

# Objects of another source are not to be trusted: its files may be older.
source_id="$src $(cat "$build/src/stock.stamp" 2>/dev/null || true)"
if [ "$source_id" != "$(cat "$out/.source" 2>/dev/null)" ]; then
	rm -rf "$out"
fi
mkdir -p "$out"
echo "$source_id" >"$out/.source"
configure

step kernel "$name: ${targets[*]}"
kmake "${args[@]}" -j"${JOBS:-$(nproc)}" "${targets[@]}" </dev/null >"$logfile" 2>&1 || {
	grep -nE -m 5 'error:|Error |undefined reference|No space left' "$logfile" >&2 ||
		tail -n 5 "$logfile" >&2
	if grep -q 'No space left' "$logfile"; then
		die "disk full: $build"
	fi
	die "building $name failed, see $logfile"
}
[[ " ${targets[*]} " != *" bzImage "* ]] || check_image
if grep -q 'warning:' "$logfile"; then
	log "[kernel] $(grep -c 'warning:' "$logfile") compiler warnings, see $logfile"
fi
step_done
