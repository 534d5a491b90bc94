#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Shared by the scripts of this directory: places, messages, the series, versions of
# Linux, the kernel list, limits of time.

# What a script takes from a variable NAME of the environment it takes as --name VALUE
# as well, if it has NAME in "options"; BUILD and VERSION are for all. Its other arguments
# are in "words". -h: what it does.
usage()
{
	local name
	sed -n '3,/^[^#]/s/^# \{0,1\}//p' "$0"
	printf '%s%s' "${0##*/}" "${words:+ $words}"
	for name in ${options:-} BUILD VERSION; do
		name=${name//_/-}
		printf ' [--%s VALUE]' "${name,,}"
	done
	printf '\nAn option may be a variable of the environment as well: %s.\n' \
		"${options:+$options }BUILD VERSION"
}

arguments=()
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help)
		usage
		exit 0
		;;
	--)
		shift
		arguments+=("$@")
		break
		;;
	--[a-z]*)
		name=${1%%=*}
		name=${name#--}
		name=${name//-/_}
		name=${name^^}
		if [[ " ${options:-} BUILD VERSION " != *" $name "* || ($1 != *=* && $# -lt 2) ]]; then
			echo "${0##*/}: $1: no such option, or no value: -h lists them" >&2
			exit 2
		fi
		case $1 in
		*=*) export "$name=${1#*=}" ;;
		*)
			export "$name=$2"
			shift
			;;
		esac
		;;
	*) arguments+=("$1") ;;
	esac
	shift
done
set -- "${arguments[@]}"
unset arguments
if [[ ($# -gt 0 && -z ${words:-}) || ($# -eq 0 && ${words:-[} != \[*) ]]; then
	if [ $# -gt 0 ]; then
		echo "${0##*/}: $1: takes no argument: -h lists the options" >&2
	else
		echo "usage: ${0##*/} $words" >&2
	fi
	exit 2
fi

# The versions of Linux that the series is for, the newest first. patches/ is for the
# first of them, patches/VERSION holds what differs for another.
supported=(7.3 7.2)

# shellcheck disable=SC2034	# read by the scripts that source this file
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(realpath -m "${BUILD:-$top/build}")
# A version that was asked for by name, and is not the first, has a directory of its own.
case ${VERSION:-} in
'' | "${supported[0]}" | "${build##*/}") ;;
*) build=$build/$VERSION ;;
esac
# What is fetched and what is compiled is kept for other clones of this user.
cache=$(realpath -m "${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/pte_ref")

# What make was told is for these scripts, not for a make below them.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

# kmake ARGUMENT...: make of Linux, which must not take our variables for its own.
kmake()
{
	env -u BUILD -u KERNEL -u DEBUG -u LINUX -u RUN -u TREE -u MEM -u CPUS -u S \
		-u APPEND -u BASE -u CONFIG -u FRAGMENTS -u SRC -u OUT -u TARGETS -u JOBS -u NAME -u VERSION \
		make -s "$@"
}

log()
{
	echo "$*" >&2
}

die()
{
	log "${0##*/}: $*"
	exit 1
}

# step NAME WHAT: opens a progress line, step_done closes it with the time.
step()
{
	step_name=$1
	step_start=$SECONDS
	log "[$1] $2"
}

step_done()
{
	log "[$step_name] done in $((SECONDS - step_start)) s"
}

# need PROGRAM...: all of them must be there.
need()
{
	local p
	for p; do
		command -v "$p" >/dev/null ||
			die "$p is missing: run scripts/packages.sh"
	done
}

# need_space DIR MiB
need_space()
{
	local free
	mkdir -p "$1" || die "cannot create $1"
	free=$(df --output=avail -m "$1" | tail -n 1)
	[ "$free" -ge "$2" ] ||
		die "disk full: $1 has $((free)) MiB free, $2 MiB are needed"
}

# lock NAME [DIR]: one run at a time works on a part of the build directory, or on DIR.
lock()
{
	local dir=${2:-$build}
	mkdir -p "$dir"
	exec 9>"$dir/.$1.lock"
	flock -n 9 || {
		log "[$1] waiting for another run"
		flock 9
	}
}

# use_ccache: sets cc to the compiler for kernels and guests and hostcc to that for this
# machine, by way of the cache if there is one. A clone elsewhere finds what this one
# compiled, since paths below BUILD are made relative.
use_ccache()
{
	# shellcheck disable=SC2034	# for the script that calls this
	cc=${cross}gcc hostcc=gcc
	command -v ccache >/dev/null || return 0
	# shellcheck disable=SC2034
	cc="ccache ${cross}gcc" hostcc="ccache gcc"
	export CCACHE_DIR=${CCACHE_DIR:-$cache/ccache}
	export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$build}
	# Without a run of the preprocessor for each file that is not in the cache.
	export CCACHE_DEPEND=1
	export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-5G}
}

# supports VERSION
supports()
{
	[[ " ${supported[*]} " == *" $1 "* ]]
}

# version: the one of the source, as 7.3.
version()
{
	[ -f "$build/src/stock.stamp" ] || die "no source: run make source"
	sed -E 's/.* ([0-9]+\.[0-9]+)[^ ]*$/\1/' "$build/src/stock.stamp"
}

# series: a line for each commit, in order: its patch, named from patches/, and its new
# files. For a version that is not the first of supported, a patch of the same name
# without the number in patches/VERSION takes the place of the one in patches/, and
# patches/VERSION/series names patches that only that version needs, with the patch
# before which each goes.
series()
{
	local v dir
	v=$(version) || exit 1
	dir=$top/patches/$v
	{
		[ ! -f "$dir/series" ] || sed 's/^/only /' "$dir/series"
		[ ! -d "$dir" ] || find "$dir" -name '*.patch' -printf 'variant %f\n'
		sed 's/^/all /' "$top/patches/series"
	} | awk -v v="$v" '{ sub(/#.*/, "") }
		NF < 2 { next }
		$1 == "only" { before[$3] = before[$3] v "/" $2 "\n"; next }
		$1 == "variant" { variant[$2] = 1; next }
		{
			name = $2
			sub(/^[0-9]+-/, "", name)
			printf "%s", before[name]
			line = name in variant ? v "/" name : $2
			for (i = 3; i <= NF; i++)
				line = line " " $i
			print line
		}'
}

# series_patches: the paths of its patches.
series_patches()
{
	series | awk -v dir="$top/patches/" '{ print dir $1 }'
}

# edited: the files that the patches of the series edit, by the headers of their diffs.
edited()
{
	series_patches | xargs -d '\n' sed -n 's,^diff --git a/.* b/,,p' | sort -u
}

# The architecture of kernels and guests, and its page size, which may name the size of
# the address space as well: what Linux calls that architecture and its image, and what
# Debian calls it, and its tools. They are made for another machine than this one if "cross" is
# set. "flavour" is in the names of what is not this machine's own with 4K pages.
arch=${ARCH:-$(uname -m)}
arch=${arch/aarch64/arm64}
pages=${PAGES:-4k}
# shellcheck disable=SC2034	# read by the scripts that source this file
case $arch-$pages in
x86_64-4k) srcarch=x86 kimage=bzImage gnuarch=x86_64 debarch=amd64 ;;
x86_64-*) die "PAGES=$pages: x86_64 has 4k only" ;;
arm64-4k | arm64-16k | arm64-64k | arm64-64k-va42) srcarch=arm64 kimage=Image gnuarch=aarch64 debarch=arm64 ;;
arm64-*) die "PAGES=$pages: must be 4k, 16k, 64k or 64k-va42" ;;
*) die "ARCH=$arch: must be x86_64 or arm64" ;;
esac
cross=
[ "$(uname -m)" = "$gnuarch" ] || cross=$gnuarch-linux-gnu-
flavour=${cross:+-$arch}
[ "$pages" = 4k ] || flavour+=-$pages

# kernel_dir KERNEL DEBUG
kernel_dir()
{
	case $1 in
	stock | pte_ref) ;;
	*) die "KERNEL=$1: must be pte_ref or stock" ;;
	esac
	case $2 in
	'' | 0) echo "$build/kernel-$1$flavour" ;;
	1) echo "$build/kernel-$1$flavour-debug" ;;
	kasan) echo "$build/kernel-$1$flavour-kasan" ;;
	*) die "DEBUG=$2: must be 1 or kasan" ;;
	esac
}

# kernel_image KERNEL DEBUG
kernel_image()
{
	local dir
	dir=$(kernel_dir "$1" "$2") || exit 1
	echo "$dir/arch/$srcarch/boot/$kimage"
}

# wide_kernel KERNEL: builds it with the debug options and configs/wide.config, and sets
# and exports IMAGE. That is for x86_64.
wide_kernel()
{
	local out=$build/kernel-$1-wide
	[ "$arch$cross" = x86_64 ] || die "for x86_64 only"
	KERNEL=$1 DEBUG=1 OUT=$out FRAGMENTS=wide "$top/scripts/kernel.sh"
	export IMAGE=$out/arch/$srcarch/boot/$kimage
}

# patience SECONDS: prints the same time for this machine as it is now. A limit of time
# is there to end what hangs, not what is slow: it is meant for a machine that compiles
# a small program in 0.1 s, and grows with the longest that this took since make test
# or make demo was started.
patience()
{
	local file=$build/slowness start end worst took
	mkdir -p "$build"
	start=$(date +%s%N)
	gcc -O2 -c -o /dev/null "$top/demo/needed.c" 2>/dev/null || true
	end=$(date +%s%N)
	took=$(((end - start) / 1000000))
	worst=$(cat "$file" 2>/dev/null) || true
	[ "${worst:-100}" -ge $took ] || worst=$took
	worst=${worst:-100}
	echo "$worst" >"$file"
	echo $(($1 * worst / 100))
}

# guarded SECONDS COMMAND...: ends it, and all that it started, after that time if it is not
# 0, and when this script is interrupted.
guarded()
{
	local status=0
	timeout -k 10 "$@" </dev/null &
	guarded_pid=$!
	trap 'kill $guarded_pid; wait $guarded_pid || true; exit 130' INT TERM
	wait $guarded_pid || status=$?
	trap - INT TERM
	return $status
}

# forget NAME...: unsets what a script takes from the environment, but for these, BUILD,
# VERSION, and what says how and not what to build and boot.
forget()
{
	local name
	for name in $(sed -n "s/^options='\(.*\)'/\1/p" "$top"/scripts/*.sh) KCSAN_OF; do
		[[ " $* ACCEL JOBS LINUX VIRTME " == *" $name "* ]] || unset "$name"
	done
}

# run_guest OUTPUT COMMAND...: runs a command that boots a guest and keeps its output in
# a file too. If QEMU broke the guest (status 126 of boot.sh), all again, twice at most.
run_guest()
{
	local output=$1 status
	shift
	for _ in 1 2 3; do
		status=0
		"$@" </dev/null | tee "$output" || status=$?
		[ $status -eq 126 ] || break
	done
	return $status
}
