#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Brings the commits of a git tree back into this repository: edits to files
# that Linux has become patches/NNNN-*.patch, files that Linux does not have
# become files here. TREE names the tree, its tag "pristine" the base. If that is not
# the first of the supported versions, only what must differ for it is written, to
# patches/VERSION.
set -euo pipefail
options='TREE'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tree=$(realpath -m "${TREE:-$build/tree}")
work=$build/refresh.work
git=(git -C "$tree" -c core.quotePath=false)

need git
[ -e "$tree/.git" ] || die "$tree is no git tree: run make tree or give TREE="
if [ -d "$tree/.git" ] && grep -qsx unfinished "$tree/.git/refreshed"; then
	die "$tree does not hold the whole series: run make tree"
fi
if ! "${git[@]}" rev-parse -q --verify refs/tags/pristine >/dev/null; then
	mapfile -t roots < <("${git[@]}" rev-list --max-parents=0 HEAD)
	[ ${#roots[@]} -eq 1 ] || die "$tree has no tag pristine: git tag pristine COMMIT"
	"${git[@]}" tag pristine "${roots[0]}"
fi
[ -z "$("${git[@]}" status --porcelain --untracked-files=no)" ] ||
	die "$tree has uncommitted changes: commit or stash them"
[ -z "$("${git[@]}" rev-list --merges pristine..HEAD)" ] ||
	die "$tree has merge commits: rebase on pristine"
mapfile -t commits < <("${git[@]}" rev-list --reverse pristine..HEAD)
[ ${#commits[@]} -gt 0 ] || die "$tree has no commits on top of pristine"

version=$("${git[@]}" show pristine:Makefile |
	awk '$1 == "VERSION" { v = $3 } $1 == "PATCHLEVEL" { v = v "." $3 } END { print v }')
supports "$version" ||
	die "$tree is Linux $version: put that first into supported of scripts/lib.sh to move the base to it"
lock refresh
rm -rf "$work"
mkdir -p "$work/patches" "$work/new"
# As in Linux: the function that a hunk names depends on it.
printf '*.[ch] diff=cpp\n' >"$work/attributes"
declare -A pristine dirs added=()
while IFS= read -r f; do
	pristine[$f]=1
	dirs[${f%%/*}/]=1
done < <("${git[@]}" ls-tree -r --name-only pristine)

commit_name()
{
	"${git[@]}" log -1 --format='%h ("%s")' "$1"
}

# Sorts the files of a commit into edits and new ones.
split_files()
{
	local status f
	edits=()
	news=()
	while IFS=$'\t' read -r status f; do
		if [ -n "${pristine[$f]:-}" ]; then
			edits+=("$f")
		elif [ "$status" = A ] && [ -z "${added[$f]:-}" ]; then
			added[$f]=$1
			news+=("$f")
		else
			die "$(commit_name "$1") changes the new file $f: fold that into $(commit_name "${added[$f]}")"
		fi
	done < <("${git[@]}" diff-tree --no-commit-id --no-renames --name-status -r "$1")
}

take_new()
{
	local f
	for f; do
		case $f in
		*' '*) die "new file '$f': no blanks in names" ;;
		esac
		# Directories that Linux has and this repository does not use itself.
		if [ "${f%%/*}" = scripts ] || [ -z "${dirs[${f%%/*}/]:-}" ]; then
			die "new file $f: its place belongs to this repository"
		fi
		mkdir -p "$work/new/$(dirname "$f")"
		"${git[@]}" cat-file blob "HEAD:$f" >"$work/new/$f"
		case $("${git[@]}" ls-tree HEAD -- "$f") in
		100755*) chmod 755 "$work/new/$f" ;;
		esac
	done
}

# What differs between two runs or two versions of git is left out.
write_patch()
{
	"${git[@]}" log -1 --no-decorate --encoding=UTF-8 --format=format:"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: %an <%ae>
Date: %aD
Subject: %s

%b---" "$1"
	echo
	if [ ${#edits[@]} -gt 0 ]; then
		"${git[@]}" -c core.attributesFile="$work/attributes" diff-tree --no-commit-id -p --no-renames --no-ext-diff \
			--no-textconv --no-color --diff-algorithm=myers -U3 --src-prefix=a/ \
			--dst-prefix=b/ "$1" -- "${edits[@]}" | sed '/^index [0-9a-f]*\.\./d'
	fi
}

n=0
{
	echo "# The commits in their order: the patch of edits to files that Linux has,"
	echo "# then the new files that belong to the same commit."
} >"$work/patches/series"
for c in "${commits[@]}"; do
	n=$((n + 1))
	split_files "$c"
	take_new "${news[@]}"
	slug=$("${git[@]}" log -1 --format=%f "$c")
	name=$(printf '%04d-%.52s' $n "$slug")
	name=${name%[-.]}.patch
	write_patch "$c" >"$work/patches/$name"
	echo "$name${news[*]:+ ${news[*]}}" >>"$work/patches/series"
done

place()	# FROM TO
{
	[ -e "$2" ] && cmp -s "$1" "$2" && [ "$(stat -c %A "$1")" = "$(stat -c %A "$2")" ] && return
	mkdir -p "$(dirname "$2")"
	cp -p "$1" "$2.tmp.$$"
	mv "$2.tmp.$$" "$2"
}

refreshed()
{
	rm -rf "$work"
	# A linked worktree has no directory .git, and is not one that tree.sh made.
	[ ! -d "$tree/.git" ] || "${git[@]}" rev-parse HEAD >"$tree/.git/refreshed"
	log "[refresh] $n commits, $1"
}

# serves COMMIT PATCH [NEW FILE]...: the patch gives what the commit is.
serves()
{
	local c=$1 patch=$2 index=(env GIT_INDEX_FILE="$work/index" "${git[@]}")
	shift 2
	"${index[@]}" read-tree "$c^"
	if grep -q '^diff --git ' "$patch"; then
		"${index[@]}" apply --cached "$patch" 2>/dev/null || return 1
	fi
	[ $# -eq 0 ] || "${index[@]}" ls-tree -r "$c" -- "$@" |
		"${index[@]}" update-index --index-info
	[ "$("${index[@]}" write-tree)" = "$("${git[@]}" rev-parse "$c^{tree}")" ]
}

# What this version needs beside the series for the first one.
variants()
{
	local dir=$top/patches/$version out=$work/variants f i name only=() o
	local patches words
	mapfile -t patches < <(sed -e 's/#.*//' -e 's/ .*//' -e '/^$/d' "$top/patches/series")
	mkdir -p "$out"
	for ((i = 0; i < n; i++)); do
		read -ra words <<<"$(sed -n "$((i + 3))p" "$work/patches/series")"
		name=${words[0]#*-}
		if [[ ${patches[0]:-} != ????-"$name" ]]; then
			# Not the next one of the series: only for this version.
			cp "$work/patches/${words[0]}" "$out/$name"
			only+=("$name")
			continue
		fi
		for o in "${only[@]}"; do
			echo "$o $name" >>"$out/series"
		done
		only=()
		for f in "${words[@]:1}"; do
			cmp -s "$work/new/$f" "$top/$f" ||
				die "$f differs from the one here: new files are the same for all versions"
		done
		serves "${commits[i]}" "$top/patches/${patches[0]}" "${words[@]:1}" ||
			cp "$work/patches/${words[0]}" "$out/$name"
		patches=("${patches[@]:1}")
	done
	[ ${#patches[@]} -eq 0 ] || die "patches/${patches[0]} has no commit in its place"
	[ ${#only[@]} -eq 0 ] || die "${only[0]} has no patch of the series behind it"
	[ ! -f "$out/series" ] ||
		sed -i "1i # What only $version needs, each with the patch before which it goes." "$out/series"
	mkdir -p "$dir"
	for f in "$dir"/*.patch "$dir/series"; do
		[ -e "$out/$(basename "$f")" ] || rm -f "$f"
	done
	for f in "$out"/*; do
		[ ! -e "$f" ] || place "$f" "$dir/$(basename "$f")"
	done
	refreshed "$(find "$dir" -name '*.patch' | wc -l) patches differ for $version"
}

if [ "$version" != "${supported[0]}" ]; then
	variants
	exit
fi

# Into place: only what differs, the series before anything goes.
old=()
if [ -f "$top/patches/series" ]; then
	while read -r _ rest; do
		read -ra words <<<"$rest"
		old+=("${words[@]}")
	done < <(sed -e 's/#.*//' "$top/patches/series")
fi
while IFS= read -r f; do
	place "$work/new/$f" "$top/$f"
done < <(cd "$work/new" && find . -type f -printf '%P\n')
while IFS= read -r f; do
	place "$work/patches/$f" "$top/patches/$f"
done < <(cd "$work/patches" && find . -type f -printf '%P\n')
for f in "$top"/patches/[0-9][0-9][0-9][0-9]-*.patch; do
	[ -e "$work/patches/$(basename "$f")" ] || rm -f "$f"
done
for f in "${old[@]}"; do
	if [ -z "${added[$f]:-}" ]; then
		rm -f "$top/$f"
		rmdir -p --ignore-fail-on-non-empty "$(dirname "$top/$f")" 2>/dev/null || true
	fi
done
refreshed "${#added[@]} new files"
