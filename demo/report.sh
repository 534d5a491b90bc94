#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# report.sh DIR: makes DIR/table.txt, DIR/table.md and DIR/vmpte.png from what
# guest.sh measured in both kernels, prints the table and checks it. The status
# is 2 if a check fails.
set -euo pipefail
words='DIR'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

[ $# -eq 1 ] || die "usage: report.sh DIR"
dir=$1
here=$(cd "$(dirname "$0")" && pwd)
need awk gnuplot

for k in stock pte_ref; do
	grep -qs '^all	complete' "$dir/$k.tsv" ||
		die "the workloads of $k did not finish: run make demo again"
done
# The sizes of this run: GIB_A, GIB_B, KEYS.
# shellcheck source=/dev/null
. "$dir/sizes"

# Of a page, and so of a table; with larger pages loop.c takes as much more.
page_kb=$(awk -F'\t' '$1 == "all" && $2 == "page" { print $3 }' "$dir/stock.tsv")
larger=$((page_kb * page_kb / 16))

# Tables that redis gave back, of those that became empty.
for k in stock pte_ref; do
	awk -F'\t' -v OFS='\t' '{ print; v[$1, $2] = $3 }
		$1 == "all" && $2 == "page" { page = $3 }
		$2 == "empty" {
			given = (v[$1, "top"] - v[$1, "end"]) / page
			print $1, "given", given
			print $1, "percent", $3 ? int(100 * given / $3) : "none"
		}' "$dir/$k.tsv" >"$dir/$k.figures"
done

# Rows: heading, stock, pte_ref, separated by tabs; a workload has no figures.
rows=$(awk -F'\t' -v gib_a="$GIB_A" -v gib_b="$GIB_B" -v keys="$KEYS" -v page="$page_kb" -v larger="$larger" '
	FNR == NR { stock[$1, $2] = $3; next }
	{ ref[$1, $2] = $3 }
	function size(kib) {
		return kib < 1024 ? kib " KiB" : kib < 1048576 ? kib / 1024 " MiB" : kib / 1048576 " GiB"
	}
	function row(w, f, text) {
		if (!((w, f) in stock) || !((w, f) in ref))
			exit missing = 1
		print "  " text "\t" stock[w, f] "\t" ref[w, f]
	}
	function system_rows(w) {
		row(w, "tables", "page tables of the system, kB")
		row(w, "slab", "slab of pte_ref, kB")
		row(w, "percpu", "Percpu, kB")
	}
	function workload(w, text, top_text) {
		print text
		row(w, "virt", "VIRT, kB")
		row(w, "res", "RES, kB")
		row(w, "top", top_text)
		row(w, "end", "VmPTE at the end, kB")
		row(w, "needed", "of it for populated entries and upper tables, kB")
		system_rows(w)
	}
	function redis(w, text) {
		workload(w, text, "VmPTE when filled, kB")
		row(w, "pte_top", "PTE tables when filled")
		row(w, "empty", "PTE tables that became empty")
		row(w, "given", "PTE tables given back")
		row(w, "percent", "given back of the empty ones, %")
	}
	function refill(w, text) {
		print text
		row(w, "res_top", "RES when touched, kB")
		row(w, "huge_top", "of it huge pages, kB")
		row(w, "purged", "VmPTE when given back, kB")
		row(w, "res", "RES in the end, kB")
		row(w, "huge", "of it huge pages, kB")
	}
	function redis_again(w, text) {
		print text
		row(w, "top", "VmPTE when filled, kB")
		row(w, "end", "VmPTE when flushed, kB")
		row(w, "res", "RES when flushed, kB")
		row(w, "res_refilled", "RES when filled again, kB")
		row(w, "huge", "of it huge pages, kB")
	}
	END {
		high = "VmPTE at its highest, kB"
		print "guest before the workloads"
		system_rows("idle")
		if (larger > 1)
			print "(a), (b): a page of each " size(4 * larger) " is touched"
		gib_a *= larger
		gib_b *= larger
		workload("a", "(a) " gib_a " GiB touched and freed in pieces of " size(2048 * larger), high)
		workload("b64", "(b) " gib_b " GiB touched and freed in pieces of " size(64 * larger), high)
		workload("b4", "(b) " gib_b " GiB touched and freed in pieces of " size(4 * larger), high)
		redis("jemalloc", "(c) redis-server, jemalloc, " keys " keys, flushed")
		redis("tcmalloc", "(c) redis-server, tcmalloc, " keys " keys, flushed")
		table = 2048 * larger
		all = 2 * table > 262144 ? 2 * table : 262144
		refill("thp_always", "(d) " all / 1024 " MiB freed in pieces of 64 KiB, a page of each " size(table) " touched, huge pages always")
		refill("thp_madvise", "(d) the same, huge pages by madvise()")
		redis_again("jemalloc_thp", "(d) redis-server, jemalloc, huge pages always, filled, flushed, a quarter filled again")
		redis_again("tcmalloc_thp", "(d) redis-server, tcmalloc, huge pages always, filled, flushed, a quarter filled again")
		exit missing
	}' "$dir/stock.figures" "$dir/pte_ref.figures") ||
	die "figures are missing in $dir/*.tsv"

awk -F'\t' 'BEGIN { printf "%-54s %12s %12s\n", "", "stock", "pte_ref" }
	NF == 1 { print "\n" $0; next }
	{ printf "%-54s %12s %12s\n", $1, $2, $3 }' <<<"$rows" >"$dir/table.txt"
awk -F'\t' 'BEGIN { print "| | stock | pte_ref |\n|---|---:|---:|" }
	NF == 1 { print "| **" $0 "** | | |"; next }
	{ sub(/^ */, ""); print "| " $1 " | " $2 " | " $3 " |" }' <<<"$rows" >"$dir/table.md"
cat "$dir/table.txt"

gnuplot -e "dir='$dir'; gib_a=$GIB_A; gib_b=$GIB_B; page_kb=$page_kb; larger=$larger" "$here/plot.gp" ||
	die "gnuplot failed"

value()	# KERNEL WORKLOAD FIGURE
{
	awk -F'\t' -v w="$2" -v f="$3" '$1 == w && $2 == f { print $3 }' "$dir/$1.figures"
}

check()	# TEXT VALUE RELATION LIMIT UNIT
{
	local verdict=ok
	test "$2" "$3" "$4" || verdict=FAILED
	printf '%-6s  %s: %s, limit %s\n' "$verdict" "$1" "$2${5:+ $5}" "$4"
}

skip()	# TEXT REASON
{
	printf 'skipped %s: %s\n' "$@"
}

checks()
{
	local w k limit=$((50 * page_kb)) status less
	# PMD tables, one for each GiB at most, are not pte_ref's to free.
	[ "$GIB_A" -le 32 ] || limit=$(((18 + GIB_A) * page_kb))
	check "(a) VmPTE with pte_ref" "$(value pte_ref a end)" -le $limit kB
	for w in b64 b4; do
		check "(b) VmPTE with pte_ref, $((${w#b} * larger)) KiB pieces (5 % of stock)" \
			"$(value pte_ref $w end)" -le $(($(value stock $w end) / 20)) kB
	done
	for w in jemalloc tcmalloc; do
		if [ "$(value pte_ref $w percent)" = none ]; then
			skip "(c) tables given back by pte_ref, $w" "none became empty"
			continue
		fi
		check "(c) tables given back by pte_ref, $w" \
			"$(value pte_ref $w percent)" -ge 90 %
	done
	# Without huge pages these say nothing.
	for k in stock pte_ref; do
		for w in thp_always thp_madvise; do
			check "(d) huge pages of $k when touched, $w" "$(value $k $w huge_top)" -ge 200000 kB
		done
		for w in jemalloc_thp tcmalloc_thp; do
			if [ "$page_kb" -gt 16 ]; then
				skip "(d) huge pages of $k when filled again, $w" "redis-server is smaller than one"
				continue
			fi
			check "(d) huge pages of $k when filled again, $w" "$(value $k $w huge)" -ge $((2048 * larger)) kB
		done
	done
	# Larger huge pages are so few that the other tables outweigh theirs.
	less=$((page_kb * (larger < 64 ? 64 / larger : 1)))
	for w in thp_always thp_madvise; do
		check "(d) RES in the end with pte_ref, $w (102 % of stock)" \
			"$(value pte_ref $w res)" -le $(($(value stock $w res) * 102 / 100)) kB
		if [ "$larger" -eq 1 ]; then
			check "(d) VmPTE when given back, $w (half of stock)" \
				"$(value pte_ref $w purged)" -le $(($(value stock $w purged) / 2)) kB
		else
			check "(d) VmPTE when given back, $w (stock without half of the tables)" \
				"$(value pte_ref $w purged)" -le $(($(value stock $w purged) - less)) kB
		fi
	done
	for w in jemalloc_thp tcmalloc_thp; do
		check "(d) RES when filled again with pte_ref, $w (102 % of stock)" \
			"$(value pte_ref $w res_refilled)" -le $(($(value stock $w res_refilled) * 102 / 100)) kB
	done
	for k in stock pte_ref; do
		status=0
		"$top/scripts/check-log.sh" "$dir/$k.console" || status=$?
		check "warnings of the $k kernel: status of check-log.sh" $status -eq 0 ""
	done
}
checks >"$dir/checks.txt"
echo
cat "$dir/checks.txt"
if grep -q '^FAILED' "$dir/checks.txt"; then
	exit 2
fi
