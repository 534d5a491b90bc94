#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# debian-root.sh PACKAGE...: a root of this machine's own Debian with these packages, from
# the archive that apt uses. Prints the path of its tar file, which is kept in the user's
# cache until another list of packages, or another Debian, is asked for.
set -euo pipefail
words='PACKAGE...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

dir=$cache/root
tar=$dir/root.tar
out=$build/log/debian-root.log
keys=/usr/share/keyrings/debian-archive-keyring.gpg

need apt-get mmdebstrap sha256sum
[ "$(id -u)" -eq 0 ] || die "must be root"
[ -f "$keys" ] || die "$keys is missing, install debian-archive-keyring"
mkdir -p "$dir" "$build/log"
lock root "$cache"

# shellcheck disable=SC2016	# apt expands these
source=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI) $(CODENAME)' |
	sed -n 's/^Debian|Debian|main|//p' | head -n 1)
[ -n "$source" ] || die "apt knows no Debian archive, run apt-get update"
id=$source' '$*
if [ ! -f "$tar" ] || [ "$id" != "$(cat "$dir/id" 2>/dev/null)" ]; then
	need_space "$dir" 2000
	step root "Debian ${source#* } with $# packages"
	rm -f "$tar" "$dir/id"
	mmdebstrap --variant=required --include="$(IFS=,; echo "$*")" '' "$dir/tmp.tar" \
		"deb [signed-by=$keys] $source main" </dev/null >"$out" 2>&1 ||
		die "cannot make it, see $out: $(grep -m 1 '^E:' "$out")"
	mv "$dir/tmp.tar" "$tar"
	echo "$id" >"$dir/id"
	step_done
fi
echo "$tar"
