#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Checks model/pte_ref.pml with spin: each run of the model as it is, which must be searched
# to its end and hold, then each broken variant, which must be caught. Runs and variants,
# in which run a variant is caught, and what it violates, are in the opening comment of the
# model.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

model=$top/model/pte_ref.pml
dir=$build/model
bad=0

need spin gcc awk
lock model
rm -rf "$dir"
mkdir -p "$dir"
cd "$dir"
cp "$model" .

# check NAME MODE CFLAGS DEFINE...: the model with these: what spin found is in NAME.out, all
# states that there could be in NAME.states. Not optimized: to compile it would take longer.
check()
{
	local name=$1 mode=$2 cflags=$3 flags=(-DSAFETY -DNOFAIR) args=()
	shift 3
	if [ "$mode" = live ]; then
		flags=(-DNFAIR=3)
		args=(-a -f)
		set -- "$@" -DLIVE
	fi
	rm -f pan*
	spin "$@" -a pte_ref.pml >"$name.log" 2>&1 || die "spin does not take $*, see $dir/$name.log"
	# shellcheck disable=SC2086	# flags
	gcc -O0 -w -DMEMLIM=900 $cflags "${flags[@]}" -o pan pan.c 2>>"$name.log" ||
		die "$* does not compile, see $dir/$name.log"
	timeout "$limit" ./pan -m100000 "${args[@]}" >"$name.out" 2>&1 || true
	./pan -d >"$name.states"
}

# all NAME: the search was not cut short.
all()
{
	grep -q '^State-vector .* errors: [0-9]' "$1.out" &&
		! grep -qE 'not completed|too small|out of memory|MEMLIM' "$1.out"
}

# What is wrong in the first error.
error()
{
	sed -nE 's/^pan:1: (.*) \(at depth.*/\1/p' "$1.out"
}

wrong()
{
	bad=$((bad + 1))
	echo "$*"
}

# Which of what must hold an error violates.
violated()
{
	case $1 in
	'acceptance cycle') echo live ;;
	*) grep -oE -m 1 '\<(COUNT|TABLE|REF|MM|END)\>' <<<"$1" | head -n 1 | tr '[:upper:]' '[:lower:]' ;;
	esac
}

# Rows of the opening comment, each with the word that stands alone above it.
rows()
{
	awk -v prefix="$1" '$1 == "*/" { exit } NF == 2 { above = $2 }
		$1 == "*" && index($2, prefix) == 1 {
			sub(prefix, "", $2); print $2, $3, above
		}' pte_ref.pml
}

limit=$(patience 300)
rows RUN_ >runs
rows BREAK_ >variants
for prefix in RUN BREAK; do
	list=runs
	[ $prefix = RUN ] || list=variants
	grep -E '^#.*'$prefix'_' pte_ref.pml | grep -oE "$prefix"'_[A-Za-z_]+' | sed "s/^${prefix}_//" |
		sort -u >used
	cut -d' ' -f1 $list | sort | diff - used >&2 ||
		die "the list of ${prefix}_ in the comment of the model is not what it has"
done

step model "$(wc -l <runs) runs"
while read -r -u 3 name mode _; do
	check "$name" "$mode" '' "-DRUN_$name"
	if ! all "$name"; then
		wrong "FAIL $name: not searched to its end in $limit s and 900 MB, see $dir/$name.out"
	elif grep -q 'errors: 0$' "$name.out"; then
		echo "ok $name: $(sed -nE 's/^ *([0-9]+) states, stored.*/\1/p' "$name.out") states, $mode"
	else
		wrong "FAIL $name: $(error "$name"), see $dir/$name.out"
	fi
done 3<runs
step_done

# A line counts as reached if a step of it is, in any process of any run.
while read -r name _; do
	awk 'FNR == 1 { file++ }
		file == 1 && /^unreached in/ { process = $NF }
		file == 1 && match($0, /pml:[0-9]+, state [0-9]+,/) {
			split(substr($0, RSTART + 4, RLENGTH), at, /[, ]+/)
			not[process, at[3] + 0] = 1
		}
		file == 2 && /^(proctype|init|claim|never)/ { process = $NF }
		file == 2 && match($0, /pml:[0-9]+/) {
			line = substr($0, RSTART + 4, RLENGTH - 4)
			state = $2
			print line, (process, state) in not ? "not" : "reached"
		}' "$name.out" "$name.states"
done <runs | sort -u | awk '$2 == "reached" { reached[$1] = 1 } { all[$1] = 1 }
	END { for (line in all) if (!reached[line]) print line }' | sort -n >unreached
while read -r line; do
	wrong "FAIL no run reaches line $line of the model: $(sed -n "${line}s/^[[:space:]]*//p" pte_ref.pml)"
done <unreached

step model "$(wc -l <variants) broken variants"
while read -r -u 3 name run what; do
	# Most errors are found sooner in this order, which spin cannot combine with fairness.
	mode=safe order=-DREVERSE
	[ "${run%/live}" = "$run" ] || mode=live order=
	check "BREAK_$name" $mode "$order" "-DRUN_${run%/live}" "-DBREAK_$name"
	said=$(error "BREAK_$name")
	if ! grep -qE 'errors: [1-9]' "BREAK_$name.out"; then
		wrong "MISSED $name in ${run%/live}, see $dir/BREAK_$name.out"
	elif [ "$(violated "$said")" != "$what" ]; then
		wrong "FAIL $name in ${run%/live} violates something else than $what: $said"
	else
		echo "caught $name in ${run%/live}, $what: $said"
	fi
done 3<variants
step_done

[ $bad -eq 0 ] || die "$bad of these are not as they must be"
echo "$(wc -l <runs) runs hold, $(wc -l <variants) broken variants are caught"
