#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes BUILD/pte_ref-vVERSION.mbox, every commit for git am, and beside it
# BUILD/pte_ref-vVERSION.cover, the letter that goes before them (git am stops at a
# message without a diff). Checked by git am on the pristine files.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

stock=$build/src/stock
work=$build/series.work
version=$(version) || exit 1
mbox=$build/pte_ref-v$version.mbox
cover=$top/patches/cover-letter.txt

lock series
need git
[ -f "$cover" ] || die "patches/cover-letter.txt is missing"
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
"${git[@]}" format-patch -q --zero-commit --no-signature --no-renames \
	--subject-prefix="PATCH $version" --numbered --cover-letter \
	-o "$work/out" pristine..HEAD
letter=$(find "$work/out" -name '0000-*')
{
	# The headers of git's letter with our subject, then the text, then git's diffstat.
	first=$(head -n 1 "$cover")
	sed '/^$/q' "$letter" | sed -e '/^$/d' -e "s,\*\*\* SUBJECT HERE \*\*\*,${first//[\\,&]/\\&},"
	tail -n +2 "$cover"
	echo
	"${git[@]}" shortlog pristine..HEAD
	"${git[@]}" diff --stat=78 --summary --no-renames pristine..HEAD
} >"$work/letter"
rm "$letter"
cat "$work"/out/*.patch >"$work/mbox"
git -C "$work/am" -c user.name=pte_ref -c user.email=pte_ref@localhost -c commit.gpgSign=false \
	am -q "$work/mbox" >"$work/am.log" 2>&1 || die "git am fails: $(grep -m 1 -E 'error|failed' "$work/am.log")"
[ "$(git -C "$work/am" rev-parse 'HEAD^{tree}')" = "$("${git[@]}" rev-parse 'HEAD^{tree}')" ] ||
	die "git am gives other files than patches/ and the new files do"
mv "$work/letter" "${mbox%.mbox}.cover"
mv "$work/mbox" "$mbox"
rm -rf "$work"
step_done
log "$mbox"
