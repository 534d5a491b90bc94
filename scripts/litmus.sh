#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Has herd7 check model/litmus by the memory model of the Linux source: what a test asks
# for must never happen. Then for each line of a test that ends with "// or: CODE" the same
# with CODE in its place, or without the line: it must happen sometimes, or the line has
# no use.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

dir=$build/litmus
src=$build/src/stock/tools/memory-model
bad=0 nr=0

[ -d "$src" ] || die "no source: run make source"
need dpkg-deb
lock litmus
rm -rf "$dir"
mkdir -p "$dir/root"
# Of a newer suite than this machine may have, so with its own libraries; not installed.
for package in herdtools7 libc6 libgmp10; do
	deb=$("$top/scripts/debian-get.sh" "the check needs it" "$package" .) || exit 1
	dpkg-deb -x "$deb" "$dir/root"
done
loader=$(find "$dir/root" -name 'ld-linux-*.so.*' -print -quit)
libs=$(find "$dir/root" \( -name libc.so.6 -o -name libgmp.so.10 \) -printf '%h\n' | sort -u | paste -sd:)

# herd FILE: what herd7 found, "Never", "Sometimes" or "Always".
herd()
{
	(cd "$src" && "$loader" --library-path "$libs" "$dir/root/usr/bin/herd7" \
		-I "$dir/root/usr/share/herdtools7/herd" -conf linux-kernel.cfg "$1") >"$1.out" 2>&1 ||
		die "herd7 does not take $1, see $1.out"
	sed -n 's/^Observation [^ ]* \([A-Z][a-z]*\) .*/\1/p' "$1.out"
}

expect()	# FILE WORD WHAT
{
	local word
	word=$(herd "$1")
	nr=$((nr + 1))
	if [ "$word" = "$2" ]; then
		echo "ok $3: ${word,,}"
	else
		bad=$((bad + 1))
		echo "not ok $3: ${word,,}, not ${2,,}, see $1.out"
	fi
}

for test in "$top"/model/litmus/*.litmus; do
	name=$(basename "$test" .litmus)
	sed 's,[[:space:]]*// or:.*,,' "$test" >"$dir/$name.litmus"
	expect "$dir/$name.litmus" Never "$name"
	mapfile -t lines < <(grep -n '// or:' "$test" | cut -d: -f1)
	[ ${#lines[@]} -gt 0 ] || die "$test has no line with // or:"
	for line in "${lines[@]}"; do
		sed -e "${line}s,^.*// or:,," -e 's,[[:space:]]*// or:.*,,' "$test" >"$dir/$name-$line.litmus"
		expect "$dir/$name-$line.litmus" Sometimes "$name without line $line"
	done
done
echo "$nr checked, $bad not ok"
[ $bad -eq 0 ]
