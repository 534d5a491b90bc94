#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# commit-series.sh TREE: commits each line of patches/series to the git tree
# TREE: its edits and its new files, with the message and author of its patch.
set -euo pipefail
words='TREE'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tree=$1
info=$(mktemp -d)
trap 'rm -rf "$info"' EXIT
git=(git -C "$tree" -c core.quotePath=false -c commit.gpgSign=false -c core.hooksPath=/dev/null
	-c gc.auto=0 -c user.name=pte_ref -c user.email=pte_ref@localhost)

field()
{
	sed -n "s/^$1: //p" "$info/head"
}

while read -r line; do
	read -ra words <<<"$line"
	p=${words[0]}
	[ -f "$top/patches/$p" ] || die "patches/series names $p, which does not exist"
	git -C "$tree" mailinfo -k --encoding=UTF-8 "$info/body" "$info/diff" \
		<"$top/patches/$p" >"$info/head"
	if grep -q '^diff --git ' "$info/diff"; then
		"${git[@]}" apply --index "$info/diff" 2>"$info/err" ||
			die "patches/$p does not apply: $(sed -n 's/^error: //p' "$info/err" | tr '\n' ' ')"
	fi
	for f in "${words[@]:1}"; do
		[ -f "$top/$f" ] || die "patches/series names the new file $f, which does not exist"
		[ ! -e "$tree/$f" ] || die "the new file $f of $p exists already"
		mkdir -p "$tree/$(dirname "$f")"
		cp "$top/$f" "$tree/$f"
		"${git[@]}" add -f -- "$f"
	done
	{
		field Subject
		echo
		cat "$info/body"
	} >"$info/message"
	# The committer's date too: the same series gives the same commits.
	GIT_COMMITTER_DATE=$(field Date) "${git[@]}" commit -q --allow-empty --cleanup=whitespace \
		--author="$(field Author) <$(field Email)>" --date="$(field Date)" -F "$info/message"
done < <(series)
