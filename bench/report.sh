#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# report.sh DIR RUN [LIMITS]: makes DIR/bench.csv, DIR/table.txt, DIR/table.md and
# DIR/bench.png from the lines of kernel, round, row and figure in DIR/figures, and prints
# the table. RUN is quick or full. The status is 2 if a row is above its limit or has no
# figure.
set -euo pipefail
options='ARCH'
words='DIR RUN [LIMITS]'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

[ $# -ge 2 ] || die "usage: report.sh DIR RUN [LIMITS]"
dir=$1 run=$2
here=$(cd "$(dirname "$0")" && pwd)
need awk gnuplot

awk -v run="$run" -v arch="$arch" -v markdown="$dir/table.md" -v OFS=, -f "$here/report.awk" "${3:-$here/limits}" "$dir/figures" >"$dir/bench.csv"
awk -F, '{ printf "%-20s %-6s %11s %11s %8s %15s %7s %7s  %s\n", $1, $2, $3, $4, $5, $6, $7, $8, $9 }' \
	"$dir/bench.csv" | tee "$dir/table.txt"
gnuplot -e "dir='$dir'" "$here/plot.gp" || die "gnuplot failed"
! grep -qvE ',(verdict|target|open)$' "$dir/bench.csv" || exit 2
