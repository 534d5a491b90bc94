#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs pte_ref_race on a kernel that frees empty tables and lacks fixes of callers: the
# debug kernel without the patches of scripts/race-bad.list. The cases that fail must be
# exactly those of the list. PATCH=name leaves out that patch only, and prints what fails;
# GROUP names one group of cases for that.
set -euo pipefail
options='GROUP PATCH'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

dir=$build/race-bad
src=$dir/src/pte_ref
list=$top/scripts/race-bad.list
export KERNEL=pte_ref DEBUG=1 TIME='' NO_REFS=''
lock race-bad

# words KIND: the second words of the lines that begin with it.
words()
{
	awk -v kind="$1" '$1 == kind { print $2 }' "$list"
}

[ -z "${GROUP:-}" ] || [ -n "${PATCH:-}" ] || die "GROUP needs PATCH: the list is of all groups"
[ -f "$build/src/stock.stamp" ] || die "no source: run make source"
need_space "$build" 3000
mapfile -t out < <(if [ -n "${PATCH:-}" ]; then echo "$PATCH"; else words patch; fi)

step race-bad "without ${#out[@]} patches"
rm -rf "$src.tmp"
mkdir -p "$dir/src"
# By links: patch replaces a file that it changes.
cp -al "$build/src/pte_ref" "$src.tmp"
left=${#out[@]}
while read -r p; do
	name=$(basename "$p" .patch)
	if printf '%s\n' "${out[@]}" | grep -qxF "${name#[0-9][0-9][0-9][0-9]-}"; then
		patch -d "$src.tmp" -p1 -s -f -R --posix <"$p" || die "$p cannot be left out"
		left=$((left - 1))
	fi
done < <(series_patches | tac)
[ "$left" -eq 0 ] || die "$left of these are not in the series: ${out[*]}"
rm -rf "$src" "$dir"/kernel-*
mv "$src.tmp" "$src"
cp "$build/src/stock.stamp" "$dir/src/"
step_done

# Laid out as BUILD, so that the cache knows what did not change.
BUILD=$dir "$top/scripts/kernel.sh"
IMAGE=$(build=$dir kernel_image pte_ref 1) "$top/scripts/race.sh" >"$dir/output" || true
failed=$(sed -n 's/^not ok [0-9]* \([^ ]*\).*/\1/p' "$dir/output" | sort)
if ! grep -q '^# Totals:' "$dir/output"; then
	tail -n 5 "$dir/output" >&2
	die "the run did not come to its end"
fi
# These are no answers of a caller.
if grep -E '^# nth.*(no table is freed at|does not end|is tainted)' "$dir/output" >&2; then
	die "a case fails for another reason than its caller"
fi
if [ -n "${PATCH:-}" ]; then
	echo "${failed:-nothing fails}"
	exit 0
fi
diff <(words case | sort) <(echo "$failed") >"$dir/diff" || {
	sed -n 's/^< /  passes: /p; s/^> /  fails: /p' "$dir/diff" >&2
	die "other cases fail than scripts/race-bad.list says"
}
echo "$(wc -l <<<"$failed") cases fail, those of the list"
