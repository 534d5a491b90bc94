#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes, for each part of patches/parts, BUILD/pte_ref-vVERSION-N-PART.mbox, its commits
# for git am, and beside it .cover, the letter that goes before them (git am stops at a
# message without a diff), from patches/cover-letter/PART.txt. Checked by git am, one
# part after the other, on the pristine files.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

stock=$build/src/stock
work=$build/series.work
version=$(version) || exit 1
parts=$top/patches/parts

lock series
need git
[ -f "$parts" ] || die "patches/parts is missing"
step series "$(series | wc -l) commits"
rm -rf "$work"
mkdir -p "$work/pristine" "$work/out"

# Of the pristine tree, the files that the series edits are all that matters.
edited | while read -r f; do
	[ -e "$stock/$f" ] || continue
	mkdir -p "$work/pristine/$(dirname "$f")"
	cp -p "$stock/$f" "$work/pristine/$f"
done
git=(git -C "$work/pristine" -c user.name=pte_ref -c user.email=pte_ref@localhost
	-c commit.gpgSign=false -c core.hooksPath=/dev/null -c core.autocrlf=false)
export GIT_COMMITTER_DATE='1970-01-01T00:00:00Z'
printf '*.[ch] diff=cpp\n' >"$work/attributes"
git+=(-c core.attributesFile="$work/attributes")
"${git[@]}" init -q -b pte_ref
"${git[@]}" add -f -A
"${git[@]}" commit -q --allow-empty -m pristine --date="$GIT_COMMITTER_DATE"
"${git[@]}" tag pristine
cp -a "$work/pristine" "$work/am"
"$top/scripts/commit-series.sh" "$work/pristine"

# The letter is from the author of the last commit, with its date.
GIT_COMMITTER_NAME=$("${git[@]}" log -1 --format=%an)
GIT_COMMITTER_EMAIL=$("${git[@]}" log -1 --format=%ae)
GIT_COMMITTER_DATE=$("${git[@]}" log -1 --format=%aD)
export GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL
mapfile -t commits < <("${git[@]}" rev-list --reverse pristine..HEAD)

# first PATCH: how many commits come before the one of this patch.
first()
{
	series | awk -v name="$1" '{ sub(/ .*/, ""); sub(/^([0-9]+-|[0-9.]+\/)/, "") }
		$0 == name { print NR - 1; found = 1 }
		END { exit !found }' || die "patches/parts names $1, which the series has not"
}

letter()	# PART: git's letter with our subject and text
{
	local cover=$top/patches/cover-letter/$1.txt subject git_letter
	[ -f "$cover" ] || die "patches/cover-letter/$1.txt is missing"
	git_letter=$(find "$work/out" -name '0000-*')
	subject=$(head -n 1 "$cover")
	# The headers of git's letter with our subject, then the text, then git's diffstat.
	sed '/^$/q' "$git_letter" |
		sed -e '/^$/d' -e "s,\*\*\* SUBJECT HERE \*\*\*,${subject//[\\,&]/\\&},"
	tail -n +2 "$cover"
	echo
	"${git[@]}" shortlog "$2..$3"
	"${git[@]}" diff --stat=78 --summary --no-renames "$2..$3"
	rm "$git_letter"
}

mapfile -t names < <(sed -e 's/#.*//' -e '/^ *$/d' "$parts")
starts=()
for part in "${names[@]}"; do
	starts+=("$(first "${part#* }")") || exit 1
done
starts+=(${#commits[@]})
[ "${starts[0]}" -eq 0 ] || die "patches/parts does not begin with the first patch of the series"
made=()
for n in "${!names[@]}"; do
	part=${names[n]%% *}
	[ "${starts[n]}" -lt "${starts[n + 1]}" ] || die "part $part has no patch"
	from=pristine
	[ "$n" -eq 0 ] || from=${commits[starts[n] - 1]}
	to=${commits[starts[n + 1] - 1]}
	out=$build/pte_ref-v$version-$((n + 1))-$part
	rm -rf "$work/out"
	"${git[@]}" format-patch -q --zero-commit --no-signature --no-renames \
		--subject-prefix="PATCH $version" --numbered --cover-letter \
		-o "$work/out" "$from..$to"
	letter "$part" "$from" "$to" >"$work/letter"
	cat "$work"/out/*.patch >"$work/mbox"
	git -C "$work/am" -c user.name=pte_ref -c user.email=pte_ref@localhost \
		-c commit.gpgSign=false am -q "$work/mbox" >"$work/am.log" 2>&1 ||
		die "git am fails: $(grep -m 1 -E 'error|failed' "$work/am.log")"
	[ "$(git -C "$work/am" rev-parse 'HEAD^{tree}')" = "$("${git[@]}" rev-parse "$to^{tree}")" ] ||
		die "git am of $part gives other files than patches/ and the new files do"
	mv "$work/letter" "$out.cover"
	mv "$work/mbox" "$out.mbox"
	made+=("$out.mbox")
done
rm -rf "$work"
step_done
printf '%s\n' "${made[@]}" >&2
