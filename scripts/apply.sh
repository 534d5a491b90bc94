#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes BUILD/src/pte_ref: the stock source, the patches in the order of
# patches/series, and the new files. Only files whose content changes get a new
# time, so that the next build is short.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

stock=$build/src/stock
tree=$build/src/pte_ref
stamp=$build/src/pte_ref.stamp
manifest=$build/src/pte_ref.files
work=$build/src/pte_ref.work

lock source
need patch rsync sha256sum
[ -f "$build/src/stock.stamp" ] || die "no source: run make source"
[ -f "$top/patches/series" ] || die "patches/series is missing"

read_series()
{
	patches=()
	new=()
	local line words
	while read -r line; do
		read -ra words <<<"$line"
		patches+=("${words[0]}")
		new+=("${words[@]:1}")
	done < <(series)
}

key()
{
	cat "$build/src/stock.stamp"
	series
	(cd "$stock" && xargs -r -d '\n' sha256sum -- 2>/dev/null <"$work.edited") || true
	(cd "$top/patches" && sha256sum -- "${patches[@]}")
	(cd "$top" && { [ ${#new[@]} -eq 0 ] || sha256sum -- "${new[@]}"; })
}

# One line that names the patch, the file and the hunk.
report()	# PATCH LOG
{
	local file hunk
	file=$(awk '/^(checking|patching) file / { f = $3 }
		/FAILED|hunk.*ignored|^can.t find file|Reversed|malformed/ { print f; exit }' "$2")
	hunk=$(grep -oE -m 1 'Hunk #[0-9]+ FAILED at [0-9]+|malformed patch at line [0-9]+|Reversed \(or previously applied\) patch' "$2" ||
		tail -n 1 "$2")
	die "patches/$1 does not apply to $(sed 's/.* //' "$build/src/stock.stamp"): ${file:-?}: $hunk"
}

# A tree that the user works in may have changed elsewhere.
follow()
{
	grep -q '^tree ' "$build/src/stock.stamp" || return 0
	sed 's,^,/,' "$manifest" >"$manifest.exclude"
	rsync -a --delete --exclude-from="$manifest.exclude" "$stock/" "$tree/"
	rm -f "$manifest.exclude"
}

read_series
for f in "${patches[@]}"; do
	[ -f "$top/patches/$f" ] || die "patches/series names $f, which does not exist"
done
for f in "${new[@]}"; do
	[ -f "$top/$f" ] || die "patches/series names the new file $f, which does not exist"
	[ ! -e "$stock/$f" ] || die "the new file $f exists in this Linux already"
done

mkdir -p "$build/src"
edited >"$work.edited"
# Of the files before they are copied: what changes meanwhile is taken the next time.
key=$(key)
if [ -d "$tree" ] && [ "$key" = "$(cat "$stamp" 2>/dev/null)" ]; then
	follow
	rm -f "$work.edited"
	exit 0
fi
step apply "${#patches[@]} patches, ${#new[@]} new files"

rm -rf "$work"
mkdir -p "$work"
while read -r f; do
	[ -e "$stock/$f" ] || continue
	mkdir -p "$work/$(dirname "$f")"
	cp -a "$stock/$f" "$work/$f"
done <"$work.edited"
for p in "${patches[@]}"; do
	grep -q '^diff --git ' "$top/patches/$p" || continue
	patch -d "$work" -p1 -F0 --batch --forward --no-backup-if-mismatch -r - \
		<"$top/patches/$p" >"$work.log" 2>&1 || report "$p" "$work.log"
done
for f in "${new[@]}"; do
	mkdir -p "$work/$(dirname "$f")"
	cp -p "$top/$f" "$work/$f"
done
(cd "$work" && find . -type f -printf '%P\n' | sort) >"$work.files"

# From here on the tree is in motion: no stamp until it is whole.
source_id=$(head -n 1 "$stamp" 2>/dev/null || true)
rm -f "$stamp"
touch "$manifest"
sort -u "$manifest" "$work.files" >"$manifest.tmp"
mv "$manifest.tmp" "$manifest"
if [ "$source_id" != "$(cat "$build/src/stock.stamp")" ] || [ ! -d "$tree" ]; then
	rm -rf "$tree" "$tree.tmp"
	need_space "$build/src" 2000
	cp -a "$stock" "$tree.tmp"
	mv "$tree.tmp" "$tree"
fi
# Files that the series does not touch any more.
comm -23 "$manifest" "$work.files" | while read -r f; do
	if [ ! -e "$stock/$f" ]; then
		rm -f "$tree/$f"
	elif ! cmp -s "$stock/$f" "$tree/$f"; then
		cp "$stock/$f" "$tree/$f"
	fi
done
rsync -rlp --checksum "$work/" "$tree/"
mv "$work.files" "$manifest"
follow
echo "$key" >"$stamp.tmp"
mv "$stamp.tmp" "$stamp"
rm -rf "$work" "$work.edited" "$work.log"
step_done
