#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Installs the Debian packages that the other scripts use, for this machine or ARCH=; with
# the word deb also those that only make deb and make check-deb need, with mm those of
# scripts/mm-tests.sh, with configs those of scripts/configs.sh.
set -euo pipefail
options='ARCH'
words='[deb|mm|configs]'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

packages=(
	# build
	bc binutils bison bzip2 ccache cpio flex gcc git kmod libc6-dev
	libelf-dev libssl-dev lz4 make patch perl python3 rsync xz-utils zstd
	# boot
	busybox-static file iproute2 kbd procps python3-argcomplete
	python3-requests qemu-system-x86 udev util-linux
	# workloads and pictures
	gnuplot-nox libcap-dev libjemalloc2 libnuma-dev libtcmalloc-minimal4
	linux-perf redis-server redis-tools stress-ng
	# checks
	groff-base shellcheck sparse spin
)
# Another architecture than this machine's: compiler, emulator, and a root for guests.
case $cross in
aarch64*) packages+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross mmdebstrap qemu-efi-aarch64
	qemu-system-arm) ;;
x86_64*) packages+=(gcc-x86-64-linux-gnu libc6-dev-amd64-cross mmdebstrap qemu-system-x86) ;;
esac
case ${1:-} in
'') ;;
# To build packages, and a root to install them in.
deb) packages+=(debhelper dpkg-dev e2fsprogs libdw-dev mmdebstrap openssl pahole) ;;
mm) packages+=(liburing-dev) ;;
configs) packages+=(gcc-m68k-linux-gnu) ;;
*) die "$1: must be deb, mm or configs" ;;
esac

missing()
{
	comm -23 <(printf '%s\n' "${packages[@]}" | sort) \
		<(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u)
}

command -v dpkg-query >/dev/null ||
	die "not a Debian system: install these yourself: ${packages[*]}"
mapfile -t todo < <(missing)
[ ${#todo[@]} -gt 0 ] || exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null ||
		die "run as root or install sudo; missing: ${todo[*]}"
	sudo=(sudo)
fi

mkdir -p "$build/log"
out=$build/log/packages.log
step packages "installing ${#todo[@]} packages"

apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
	apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)

# Lists that are missing or older than a day name packages that are gone.
if [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' \
	-mmin -1440 -print -quit 2>/dev/null)" ]; then
	"${apt[@]}" update >"$out" 2>&1 ||
		die "apt-get update failed (no network?), see $out"
fi

# No package may start a daemon: the workloads start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
	"${sudo[@]}" chmod 755 $policy
	trap '"${sudo[@]}" rm -f $policy' EXIT
fi
"${apt[@]}" install --no-install-recommends "${todo[@]}" >>"$out" 2>&1 ||
	die "cannot install ${todo[*]}, see $out"
step_done
