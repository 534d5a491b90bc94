#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# debian-get.sh PACKAGE REGEX HINT: downloads the newest version of a Debian
# package that matches REGEX, from suites newer than the machine's own, and prints
# the file's path. Nothing of the system's apt set-up is touched. HINT ends the
# line that says why it failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

package=$1
regex=$2
hint=$3
dl=$build/dl
d=$dl/apt
out=$build/log/debian-get.log

mkdir -p "$dl"
have=$(find "$dl/" -maxdepth 1 -name "${package}_*.deb" | sort -V | tail -n 1)
if [ -n "$have" ]; then
	echo "$have"
	exit 0
fi

need apt-get apt-cache dpkg-deb
mkdir -p "$build/log" "$d/etc" "$d/lists/partial" "$d/cache/archives/partial"

# shellcheck disable=SC2016	# apt expands these
uri=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' |
	awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 == "main" { print $4; exit }')
[ -n "$uri" ] || die "apt knows no Debian archive: run apt-get update, or $hint"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keys" ] || die "$keys is missing: install debian-archive-keyring, or $hint"

for suite in trixie-backports testing; do
	echo "deb [signed-by=$keys] $uri $suite main"
done >"$d/etc/sources.list"

opt=(-o "Dir::Etc::SourceList=$d/etc/sources.list" -o Dir::Etc::SourceParts=/dev/null
	-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
	-o "Dir::State::Lists=$d/lists" -o "Dir::Cache=$d/cache"
	-o Acquire::Retries=3 -o APT::Sandbox::User=root)

if [ -z "$(find "$d/lists" -maxdepth 1 -name '*_Packages*' -mmin -60 -print -quit)" ]; then
	apt-get -q "${opt[@]}" update >"$out" 2>&1 || true
	[ -n "$(find "$d/lists" -maxdepth 1 -name '*_Packages*' -print -quit)" ] ||
		die "no network, Debian's lists cannot be fetched (see $out): $hint"
fi

version=$(apt-cache "${opt[@]}" madison "$package" | awk -F' *[|] *' '{ print $2 }' |
	grep -E -- "$regex" | sort -Vu | tail -n 1) || true
[ -n "$version" ] || die "Debian has no fitting $package now: $hint"

need_space "$dl" 400
step fetch "$package $version from Debian"
# apt verifies the checksum; the file appears under its name only when whole.
mkdir -p "$dl/tmp"
(cd "$dl/tmp" && apt-get -q "${opt[@]}" download "$package=$version") >>"$out" 2>&1 ||
	die "download of $package $version failed (see $out): $hint"
mv "$dl/tmp/${package}"_*.deb "$dl/"
step_done
find "$dl/" -maxdepth 1 -name "${package}_*.deb" | sort -V | tail -n 1
