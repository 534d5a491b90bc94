#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Gets the Linux source into BUILD/src/stock: the newest of the supported versions that
# Debian has as a package linux-source-VERSION; with VERSION that one; with LINUX the
# tree or tarball that it names. PORT=1 takes a VERSION that is not supported yet.
set -euo pipefail
options='LINUX PORT'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

stock=$build/src/stock
stamp=$build/src/stock.stamp
tmp=$build/src/stock.tmp
versions=("${supported[@]}")
if [ -n "${VERSION:-}" ]; then
	supports "$VERSION" || [ -n "${PORT:-}" ] ||
		die "VERSION=$VERSION is not supported, ${supported[*]} are; to port the series: make port VERSION=$VERSION"
	versions=("$VERSION")
fi
name_one="give LINUX=/path/to/a tree or tarball of Linux $(printf '%s.y, ' "${versions[@]}" | sed 's/, $//; s/\(.*\), /\1 or /')"

check_version()	# MAKEFILE NAME
{
	local v p
	v=$(sed -n 's/^VERSION = //p' "$1" | head -n 1)
	p=$(sed -n 's/^PATCHLEVEL = //p' "$1" | head -n 1)
	[[ " ${versions[*]} " == *" $v.$p "* ]] ||
		die "$2 is Linux ${v:-?}.${p:-?}: $name_one"
}

install_tmp()	# ID
{
	kmake -C "$tmp" kernelversion >"$tmp.version"
	rm -f "$stamp"
	if [ -e "$stock" ]; then
		mv "$stock" "$build/src/stock.old"
		rm -rf "$build/src/stock.old"
	fi
	mv "$tmp" "$stock"
	echo "$1 $(cat "$tmp.version")" >"$stamp.tmp"
	rm -f "$tmp.version"
	mv "$stamp.tmp" "$stamp"
}

from_tree()
{
	local id="tree $1"
	[ -f "$1/Kbuild" ] || die "LINUX=$1 is not a Linux tree"
	check_version "$1/Makefile" "LINUX=$1"
	need_space "$build/src" 2500
	step source "taking $1"
	# An own copy: out-of-tree builds need a clean tree.
	rm -rf "$build/src/stock.old"
	if grep -qxF "$id $(kmake -C "$1" kernelversion)" "$stamp" 2>/dev/null; then
		mv "$stamp" "$stamp.old"
		mv "$stock" "$tmp"
	else
		rm -rf "$tmp"
		mkdir -p "$tmp"
	fi
	if [ -e "$1/.git" ]; then
		git -C "$1" ls-files -z --cached --others --exclude-standard |
			rsync -a --files-from=- --from0 --delete-missing-args "$1/" "$tmp/"
	else
		rsync -a --delete --exclude=.git "$1/" "$tmp/"
		kmake -C "$tmp" mrproper
	fi
	install_tmp "$id"
	step_done
}

unpack()	# TARBALL ID
{
	need_space "$build/src" 2500
	step source "unpacking $(basename "$1")"
	rm -rf "$tmp" "$build/src/stock.old"
	mkdir -p "$tmp"
	tar -C "$tmp" --strip-components=1 -xf "$1" 2>"$build/src/tar.log" ||
		die "cannot unpack $1: $(tail -n 1 "$build/src/tar.log")"
	rm -f "$build/src/tar.log"
	[ -f "$tmp/Makefile" ] || die "$1 holds no Linux tree"
	check_version "$tmp/Makefile" "$1"
	install_tmp "$2"
	step_done
}

from_debian()
{
	local v deb tarball packages=()
	for v in "${versions[@]}"; do
		packages+=("linux-source-$v" "^${v//./\\.}[.-]")
	done
	deb=$("$top/scripts/debian-get.sh" "$name_one" "${packages[@]}") || exit 1
	if [ "$(sed 's/ [^ ]*$//' "$stamp" 2>/dev/null)" = "deb $(basename "$deb")" ]; then
		return
	fi
	need_space "$build/src" 3000
	rm -rf "$build/src/deb.tmp"
	mkdir -p "$build/src"
	dpkg-deb -x "$deb" "$build/src/deb.tmp" 2>"$build/src/tar.log" || {
		rm -f "$deb"
		die "$(basename "$deb") was damaged: run again"
	}
	tarball=$(find "$build/src/deb.tmp" -name 'linux-source-*.tar.*' -print -quit)
	unpack "$tarball" "deb $(basename "$deb")"
	rm -rf "$build/src/deb.tmp"
}

lock source
linux=${LINUX:-}
# What was taken once stays until make clean or another LINUX= or VERSION=.
if [ -z "$linux" ] && [ -d "$stock" ] && [ -f "$stamp" ] &&
	{ [ -z "${VERSION:-}" ] || [ "$VERSION" = "$(version)" ]; }; then
	linux=$(sed -n 's/^tree \(.*\) [^ ]*$/\1/p' "$stamp")
	[ -d "$linux" ] || exit 0
fi
if [ -z "$linux" ]; then
	need rsync dpkg-deb tar xz make
	from_debian
elif [ -d "$linux" ]; then
	need rsync make
	from_tree "$(realpath "$linux")"
elif [ -f "$linux" ]; then
	need tar make
	linux=$(realpath "$linux")
	id="tarball $linux:$(stat -c %s:%Y "$linux")"
	if [ "$(sed 's/ [^ ]*$//' "$stamp" 2>/dev/null)" != "$id" ]; then
		unpack "$linux" "$id"
	fi
else
	die "LINUX=$linux does not exist"
fi
