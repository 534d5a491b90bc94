#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# pristine.sh TREE: makes the git tree TREE of the stock source, one commit, tagged
# "pristine".
set -euo pipefail
words='TREE'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tree=$1
step tree "git tree of the stock source"
need_space "$build" 3000
rm -rf "$tree"
cp -a "$build/src/stock" "$tree"
git init -q -b pte_ref "$tree"
git -C "$tree" add -f -A
GIT_AUTHOR_DATE='1970-01-01T00:00:00Z' GIT_COMMITTER_DATE='1970-01-01T00:00:00Z' \
	git -C "$tree" -c user.name=pristine -c user.email=pristine@localhost \
	-c commit.gpgSign=false -c gc.auto=0 commit -q -m "Linux $(sed 's/.* //' "$build/src/stock.stamp")"
git -C "$tree" tag pristine
step_done
