#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Shared by the scripts of this directory: places, messages, the kernel list.

# shellcheck disable=SC2034	# read by the scripts that source this file
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(realpath -m "${BUILD:-$top/build}")

# What make was told is for these scripts, not for a make below them.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

# kmake ARGUMENT...: make of Linux, which must not take our variables for its own.
kmake()
{
	env -u BUILD -u KERNEL -u DEBUG -u LINUX -u RUN -u TREE -u MEM -u CPUS -u S \
		-u APPEND -u CONFIG -u SRC -u OUT -u TARGETS -u JOBS -u NAME make -s "$@"
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

# lock NAME: one run at a time works on a part of the build directory.
lock()
{
	mkdir -p "$build"
	exec 9>"$build/.$1.lock"
	flock -n 9 || {
		log "[$1] waiting for another run"
		flock 9
	}
}

# series: the series without comments and empty lines.
series()
{
	sed -e 's/#.*//' -e 's/[[:space:]]\+/ /g' -e 's/ $//' -e '/^ *$/d' \
		"$top/patches/series"
}

# kernel_dir KERNEL DEBUG
kernel_dir()
{
	case $1 in
	stock | pte_ref) ;;
	*) die "KERNEL=$1: must be pte_ref or stock" ;;
	esac
	case $2 in
	'' | 0) echo "$build/kernel-$1" ;;
	1) echo "$build/kernel-$1-debug" ;;
	kasan) echo "$build/kernel-$1-kasan" ;;
	*) die "DEBUG=$2: must be 1 or kasan" ;;
	esac
}
