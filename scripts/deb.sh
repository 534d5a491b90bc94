#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds an installable package linux-image-RELEASE-pteref in BUILD/deb/CONFIG (with -arm64
# and the like for another architecture than this machine's, ARCH) by the
# kernel's own bindeb-pkg, and says first how long that takes and how much disk. When it
# is interrupted it goes on where it was. CONFIG is lean (for a virtual machine: ext4 on
# virtio, systemd), cloud or debian (Debian's own, from linux-config-VERSION), or the path
# of a configuration, as /boot/config-...; FREE_USER_PTE is set in each. KERNEL=stock:
# without the series, suffix -stock.
set -euo pipefail
options='ARCH CONFIG JOBS KERNEL'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

config=${CONFIG:-lean}
export KERNEL=${KERNEL:-pte_ref} DEBUG=0 BASE='' FRAGMENTS=''
case $KERNEL in
pte_ref) suffix=pteref ;;
stock) suffix=stock ;;
*) die "KERNEL=$KERNEL: must be pte_ref or stock" ;;
esac
[ "$pages" = 4k ] || die "PAGES=$pages: only 4k is supported"
symbol=CONFIG_${arch^^}
name=$config
case $config in
lean) FRAGMENTS="deb deb-$arch" ;;
cloud) kind=cloud-$debarch ;;
debian) kind=$debarch ;;
*/*)
	config=$(realpath -m "$config")
	[ -f "$config" ] || die "CONFIG=$config: there is no such file"
	grep -q "^$symbol=y" "$config" || die "CONFIG=$config is no configuration of Linux for $arch"
	name=${config##*/}
	BASE=$config
	;;
*) die "CONFIG=$config: must be lean, cloud, debian, or the path of a configuration" ;;
esac
name=$name$([ $suffix = pteref ] || echo "-$suffix")$flavour
dir=$build/deb/$name
export OUT=$dir/deb-$name EXTRA_CONFIG="LOCALVERSION=\"-$suffix\""

kernel()	# TARGET...
{
	TARGETS="$*" "$top/scripts/kernel.sh"
}

# left: the objects that are not compiled yet. What make would do after these it cannot say.
left()
{
	kernel -n all 2>/dev/null || true
	sed -nE 's/.* -c -o ([^ ]+\.o) .*/\1/p' "$build/log/deb-$name.build.log" | sort -u
}

# milliseconds OBJECT...: the time to compile them.
milliseconds()
{
	local began
	began=$(date +%s%N)
	kernel "$@" 2>/dev/null || die "compiling failed, see $build/log/deb-$name.build.log"
	echo $((($(date +%s%N) - began) / 1000000))
}

# What the rest takes, from a hundred of its objects, such as make compiles by name. Made a
# second time they take what make itself does. An object is there once more in what is
# linked from it, in the packages' directories, and packed.
estimate()
{
	local objects some took idle bytes minutes mib
	mapfile -t objects < <(left)
	mapfile -t some < <(printf '%s\n' "${objects[@]}" |
		grep -vE '^(certs|scripts|tools|usr)/|^arch/[^/]*/(boot|realmode|purgatory|tools)/|/pi/|nvhe|vdso|libstub' |
		awk '{ o[NR] = $0 } END { for (i = 0; NR >= 100 && i < 100; i++) print o[int(i * NR / 100) + 1] }')
	if [ ${#some[@]} -eq 0 ]; then
		log "[deb] $name: ${#objects[@]} objects to compile"
		return
	fi
	step deb "$name: ${#objects[@]} objects to compile; measuring a hundred of them"
	took=$(milliseconds "${some[@]}") || exit 1
	idle=$(milliseconds "${some[@]}") || exit 1
	bytes=$(cd "$OUT" && du -cb "${some[@]}" | awk 'END { print $1 }')
	minutes=$(((took - idle) * ${#objects[@]} / 100 / 60000 + 1))
	mib=$((4 * bytes * ${#objects[@]} / 100 / 1048576 + 500))
	log "[deb] compiling takes about $minutes min on this machine, linking and packing some more; about $mib MiB of disk"
	need_space "$dir" $mib
}

"$top/scripts/packages.sh" deb
"$top/scripts/fetch.sh"
"$top/scripts/apply.sh"
need dpkg-buildpackage dh_builddeb
mkdir -p "$dir"
[ -z "${kind:-}" ] || BASE=$("$top/scripts/debian-config.sh" "$kind") || exit 1
kernel prepare
estimate
touch "$dir/began"
# For another architecture without headers: they come with programs that run there.
if [ -n "$cross" ]; then
	export DPKG_FLAGS=-d
	noheaders=' pkg.linux-upstream.nokernelheaders'
fi
export KDEB_PKGVERSION KDEB_CHANGELOG_DIST=unstable DEB_BUILD_PROFILES="pkg.linux-upstream.nokerneldbg${noheaders:-}"
KDEB_PKGVERSION=$(sed 's/.* //' "$build/src/stock.stamp")-1
kernel bindeb-pkg
# Of an older version; and the C library's headers, which Debian's own packages need as
# they are.
find "$dir" -maxdepth 1 -name '*.deb' ! -newer "$dir/began" -delete
rm -f "$dir"/linux-libc-dev_*.deb
find "$dir" -maxdepth 1 -name '*.deb' | sort
log "install it: dpkg -i $(find "$dir" -maxdepth 1 -name 'linux-image-*.deb')"
