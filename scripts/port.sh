#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Tries the series on another version of Linux, which VERSION names and Debian has, or
# LINUX: says of each patch whether it applies as it is, with fuzz, or which hunk of
# which file does not, and leaves BUILD/VERSION/tree, a git tree with one commit for
# each patch, to work in. A hunk that does not apply is left out of its commit and kept
# in BUILD/VERSION/port.
set -euo pipefail
options='LINUX'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ -n "${VERSION:-}" ] || die "which version? make port VERSION=7.4"
need git patch
PORT=1 "$top/scripts/fetch.sh"
[ "$(version)" = "$VERSION" ] || die "$build holds Linux $(version): remove it, or give VERSION=$(version)"
tree=$build/tree
rejects=$build/port
info=$build/port.tmp

lock port
if [ -d "$tree" ] && { [ -n "$(git -C "$tree" status --porcelain)" ] ||
	[ "$(git -C "$tree" rev-parse HEAD)" != "$(cat "$tree/.git/ported" 2>/dev/null)" ]; }; then
	die "$tree holds work: remove it to start anew"
fi
rm -rf "$tree" "$rejects" "$info"
mkdir -p "$rejects" "$info"
"$top/scripts/pristine.sh" "$tree.tmp"
git=(git -C "$tree.tmp" -c core.quotePath=false -c commit.gpgSign=false
	-c core.hooksPath=/dev/null -c gc.auto=0 -c user.name=pte_ref -c user.email=pte_ref@localhost)

# What patch said: the hunks that failed or have fuzz, as "FILE: #1 #3", one file to a line.
hunks()	# WORD
{
	awk -v word="$1" '/^(checking|patching) file / { f = $3 }
		/^(The text leading up|can.t find file)/ { missing = 1 }
		/^\|diff --git / && missing { sub(/^.* b\//, ""); if (word == "FAILED") print $0 ": no such file"; missing = 0 }
		$0 ~ "^Hunk .*" word || (word == "FAILED" && /^Hunk .*ignored|Reversed/) {
			n = $2 ~ /^#/ ? " " $2 : " all"
			if (!(f in said)) order[++files] = f
			said[f] = said[f] n
		}
		END { for (i = 1; i <= files; i++) print order[i] ":" said[order[i]] }' "$info/log"
}

exact=0 fuzz=0 failed=0
while read -ra words; do
	p=${words[0]}
	"${git[@]}" mailinfo -k --encoding=UTF-8 "$info/body" "$info/diff" \
		<"$top/patches/$p" >"$info/head"
	verdict="as it is"
	if grep -q '^diff --git ' "$info/diff"; then
		# Not -s: what it says of offsets and fuzz is what this is for.
		if patch -d "$tree.tmp" -p1 --batch --forward --no-backup-if-mismatch \
			-r "$rejects/${p##*/}.rej" <"$info/diff" >"$info/log" 2>&1; then
			if grep -q ' with fuzz ' "$info/log"; then
				verdict="with fuzz: $(hunks 'with fuzz' | paste -sd ';')"
			fi
		else
			verdict="does not apply: $(hunks FAILED | paste -sd ';')"
		fi
	fi
	for f in "${words[@]:1}"; do
		if [ -e "$tree.tmp/$f" ]; then
			verdict="does not apply: the new file $f exists in this Linux"
			continue
		fi
		mkdir -p "$tree.tmp/$(dirname "$f")"
		cp "$top/$f" "$tree.tmp/$f"
	done
	case $verdict in
	as*) exact=$((exact + 1)) ;;
	with*) fuzz=$((fuzz + 1)) ;;
	*) failed=$((failed + 1)) ;;
	esac
	echo "${p##*/}: $verdict"
	"${git[@]}" add -f -A
	{
		sed -n 's/^Subject: //p' "$info/head"
		echo
		cat "$info/body"
	} >"$info/message"
	"${git[@]}" commit -q --allow-empty --cleanup=whitespace -F "$info/message" \
		--author="$(sed -n 's/^Author: //p' "$info/head") <$(sed -n 's/^Email: //p' "$info/head")>" \
		--date="$(sed -n 's/^Date: //p' "$info/head")"
done < <(series)
"${git[@]}" rev-parse HEAD >"$tree.tmp/.git/ported"
mv "$tree.tmp" "$tree"
rm -rf "$info"
echo "$exact as they are, $fuzz with fuzz, $failed not"
log "[port] $tree is there to work in; hunks that did not apply: $rejects"
