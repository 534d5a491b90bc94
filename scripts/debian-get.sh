#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# debian-get.sh HINT PACKAGE REGEX [PACKAGE REGEX]...: downloads the newest version of a
# Debian package that matches REGEX, from suites newer than the machine's own, and
# prints the path of the file. Of several packages, the first that Debian has. Nothing
# of the system's apt set-up is touched. Files are kept in the user's cache: Debian is
# asked once a day whether there is a newer one, and what is there serves if Debian
# cannot be reached. FOREIGN: of that architecture of Debian. HINT ends the line that says why it failed.
set -euo pipefail
options='FOREIGN'
words='HINT PACKAGE...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

hint=$1
shift
wanted=("$@")
dl=$cache/dl${FOREIGN:+-$FOREIGN}
d=$dl/apt
out=$build/log/debian-get.log

need apt-get apt-cache dpkg-deb
mkdir -p "$build/log" "$d/etc" "$d/lists/partial" "$d/cache/archives/partial"
lock download "$cache"

# What is kept of the first of the packages that is kept at all.
kept()
{
	local i files
	for ((i = 0; i < ${#wanted[@]}; i += 2)); do
		mapfile -t files < <(compgen -G "$dl/${wanted[i]}_*.deb")
		if [ ${#files[@]} -gt 0 ]; then
			echo "${files[0]}"
			return
		fi
	done
}

# Without Debian what is kept will do.
fallback()	# WHY
{
	local have
	have=$(kept)
	[ -n "$have" ] || die "$1: $hint"
	log "[fetch] $1; taking $(basename "$have")"
	echo "$have"
	exit 0
}

lists()
{
	find "$d/lists" -maxdepth 1 -name '*_Packages*' "$@" -print -quit
}

opt=(-o "Dir::Etc::SourceList=$d/etc/sources.list" -o Dir::Etc::SourceParts=/dev/null
	-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
	-o "Dir::State::Lists=$d/lists" -o "Dir::Cache=$d/cache"
	-o Acquire::Retries=3 -o APT::Sandbox::User=root)
[ -z "${FOREIGN:-}" ] || opt+=(-o "APT::Architecture=$FOREIGN" -o "APT::Architectures=$FOREIGN")

asked=
if [ -z "$(lists -mmin -1440)" ]; then
	asked=1
	# shellcheck disable=SC2016	# apt expands these
	uri=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' |
		awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 == "main" { print $4; exit }')
	[ -n "$uri" ] || fallback "apt knows no Debian archive, run apt-get update"
	keys=/usr/share/keyrings/debian-archive-keyring.gpg
	[ -f "$keys" ] || fallback "$keys is missing, install debian-archive-keyring"
	for suite in trixie-backports testing; do
		echo "deb [signed-by=$keys] $uri $suite main"
	done >"$d/etc/sources.list"
	rm -rf "$d/lists"
	mkdir -p "$d/lists/partial"
	apt-get -q "${opt[@]}" update >"$out" 2>&1 || true
	[ -n "$(lists)" ] ||
		fallback "no network, Debian's lists cannot be fetched (see $out)"
	find "$d/lists" -name '*_Packages*' -exec touch {} +
fi

for ((i = 0; i < ${#wanted[@]}; i += 2)); do
	package=${wanted[i]}
	version=$(apt-cache "${opt[@]}" madison "$package" 2>>"$out" |
		awk -F' *[|] *' '{ print $2 }' | grep -E -- "${wanted[i + 1]}" |
		sort -Vu | tail -n 1) || true
	[ -z "$version" ] || break
done
if [ -z "$version" ]; then
	for ((i = 0; i < ${#wanted[@]}; i += 2)); do
		none="${none:-} ${wanted[i]}"
	done
	fallback "Debian has none of$none now"
fi

deb=$dl/${package}_${version//:/%3a}_
file=$(compgen -G "$deb*.deb") || true
if [ -z "$file" ]; then
	need_space "$dl" 400
	step fetch "$package $version from Debian"
	# apt verifies the checksum; the file appears under its name only when whole.
	rm -rf "$dl/tmp"
	mkdir -p "$dl/tmp"
	if ! (cd "$dl/tmp" && apt-get -q "${opt[@]}" download "$package=$version") >>"$out" 2>&1; then
		[ -n "$asked" ] || {
			log "[fetch] $package $version is gone, looking again what Debian has"
			rm -rf "$d/lists"
			exec "$0" "$hint" "${wanted[@]}"
		}
		fallback "download of $package $version failed (see $out)"
	fi
	# Versions that this one replaces.
	rm -f "$dl/${package}"_*.deb
	mv "$dl/tmp/${package}"_*.deb "$dl/"
	step_done
	file=$(compgen -G "$deb*.deb")
fi
echo "$file"
