#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes BUILD/tree: a git tree to work in. Its first commit, tagged "pristine",
# is the stock source; then comes one commit for each line of patches/series.
set -euo pipefail
options='TREE'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tree=$(realpath -m "${TREE:-$build/tree}")
git=(git -C "$tree" -c core.quotePath=false -c commit.gpgSign=false -c core.hooksPath=/dev/null
	-c gc.auto=0)

lock tree
need git
[ -f "$build/src/stock.stamp" ] || die "no source: run make source"

if [ -d "$tree" ]; then
	[ -e "$tree/.git" ] || die "$tree exists and is no git tree"
	if grep -qsx unfinished "$tree/.git/refreshed"; then
		# Those of commit-series.sh have this committer.
		! "${git[@]}" log --format=%ce pristine..HEAD | grep -vx pte_ref@localhost >/dev/null ||
			die "$tree has commits of yours on a series that is not whole: save them, and remove it"
		rm -rf "$tree"
	elif [ "$("${git[@]}" rev-parse HEAD)" != "$(cat "$tree/.git/refreshed" 2>/dev/null)" ] ||
		[ -n "$("${git[@]}" status --porcelain)" ]; then
		die "$tree holds work that is not in patches/: run make refresh, or remove it"
	fi
	# A tree that the user works in may have changed under the same name.
	if grep -q "^tree " "$build/src/stock.stamp" ||
		! cmp -s "$tree/.git/source" "$build/src/stock.stamp"; then
		rm -rf "$tree"
	fi
fi
if [ ! -d "$tree" ]; then
	"$top/scripts/pristine.sh" "$tree.tmp"
	cp "$build/src/stock.stamp" "$tree.tmp/.git/source"
	git -C "$tree.tmp" rev-parse HEAD >"$tree.tmp/.git/refreshed"
	mv "$tree.tmp" "$tree"
fi

step tree "commits of patches/series"
"${git[@]}" reset -q --hard pristine
# If this is interrupted: not to be taken for work.
echo unfinished >"$tree/.git/refreshed"
"$top/scripts/commit-series.sh" "$tree" || {
	# Nothing of a series that does not apply is left to be taken for work.
	"${git[@]}" reset -q --hard pristine
	"${git[@]}" rev-parse HEAD >"$tree/.git/refreshed"
	exit 1
}
"${git[@]}" rev-parse HEAD >"$tree/.git/refreshed"
step_done
