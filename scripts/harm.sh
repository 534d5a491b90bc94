#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What one process can do to another by way of its PTE tables: runs pte_ref_harm in a
# guest with stock and in one with pte_ref, one after the other, and prints a line for
# each attack, stock beside pte_ref. Fails above the limits of the program, which are
# multiples of what processes do that only spin, or if the median fault takes twice as long as
# on stock. Arguments choose: stock, pte_ref.
# ATTACK names the only attack.
set -euo pipefail
options='ARCH ATTACK CPU DEBUG PAGES'
words='[stock|pte_ref]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

debug=${DEBUG:-0}
prog=$build/selftest/$arch/pte_ref_harm
[ $# -gt 0 ] || set -- stock pte_ref
lock harm
"$top/scripts/selftest-build.sh" pte_ref_harm

boot()	# KERNEL
{
	KERNEL=$1 DEBUG=$debug NAME=harm-$1-$debug TIMEOUT=$(patience 600) \
		RUN="cd /tmp && exec '$prog' ${ATTACK:-}" "$top/scripts/boot.sh" 2>&1
}

# table OUTPUT...: the lines "# figures" of one kernel, or of two beside each other.
table()
{
	awk '
		function show(name, i) {
			printf "| %-8s |", name
			for (i = 4; i <= 11; i++)
				printf " %15s |", (nr < 2 ? "" : value(1, name, i) " / ") value(nr, name, i)
			printf "\n"
		}
		function value(k, name, i) {
			if (!((k, name) in line))
				return "?"
			split(line[k, name], f, " ")
			return f[i] == -1 && i == 6 ? "never" : f[i]
		}
		FNR == 1 { nr++ }
		$2 == "figures" {
			line[nr, $3] = $0
			if (!($3 in seen)) {
				seen[$3] = 1
				names[++n] = $3
			}
		}
		END {
			printf "| %-8s | %15s | %15s | %15s | %15s | %15s | %15s | %15s | %15s |\n", "",
				"fault median us", "fault worst us", "free worst ms",
				"exit worst ms", "slab kB more", "tables kB more",
				"percpu kB more", "left kB"
			print "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
			for (i = 1; i <= n; i++) {
				show(names[i])
				# Without figures of the first its status says so.
				if (nr == 2 && (1, names[i]) in line &&
				    value(2, names[i], 4) > 2 * value(1, names[i], 4)) {
					print "not ok " names[i] ": median fault above twice that of the first"
					bad = 1
				}
			}
			exit bad
		}' "$@"
}

bad=0
outputs=()
for kernel; do
	output=$build/log/harm-$kernel-$debug$flavour.log
	status=0
	step harm "$kernel"
	run_guest "$output" boot "$kernel" >/dev/null || status=$?
	step_done
	outputs+=("$output")
	if [ $status -ne 0 ]; then
		bad=1
		log "$kernel: status $status, see $output"
		grep -E '^(not ok|Bail out!|# [a-z_]+: )' "$output" >&2 || tail -n 3 "$output" >&2
	fi
	# One that frees no table at all skips what is asked of it.
	if [ "$kernel" = pte_ref ] && grep '# SKIP' "$output" | grep -v 'one CPU' >&2; then
		bad=1
	fi
	"$top/scripts/check-log.sh" "$build/log/console-harm-$kernel-$debug$flavour.log" || bad=1
	log "$kernel: $(awk '/^ok / && !/# SKIP/ { ok++ } /# SKIP/ { skip++ } /^not ok / { bad++ }
		END { printf "%d pass, %d fail, %d skipped", ok, bad, skip }' "$output")"
done
echo "the worst, or the most, while the attack ran${2:+: $1 / $2}"
table "${outputs[@]}" || bad=1
[ $bad -eq 0 ]
