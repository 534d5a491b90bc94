#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# check-log.sh LOG...: fails, with the lines, if a guest's console shows a warning,
# an oops, a lock or RCU report, a stall, a hung task or damaged page tables.
# KCSAN_OF: functions, as a regular expression: only data races in which one of them
# accesses memory plainly count, or accesses an int: the count of a table is one, and the
# hooks that write it are inlined into the functions of others.
set -euo pipefail

bad='WARNING:|BUG:|BUG at |BUG [[:alnum:]_-]+ \(|Internal error:|Oops|Kernel panic|general protection fault'
bad+='|INFO: task .* blocked|INFO: possible|INFO: suspicious|INFO: trying to register'
bad+='|rcu.*(detected.*stall|stall.*detected)|rcu.*kthread.*starved|soft lockup|hard LOCKUP'
bad+='|possible (circular|recursive) locking|possible irq lock|inconsistent lock state'
bad+='|bad unlock balance|suspicious RCU usage|sleeping function called|scheduling while atomic'
bad+='|KASAN|KFENCE:|UBSAN|ODEBUG:|list_(add|del) corruption|refcount_t:|percpu ref.*(<=|underflow)'
bad+='|[Bb]ad page|Bad rss-counter|non-zero pgtables_bytes|pte_ref: mismatch|page_table_check'
bad+='|workqueue lockup|[Cc]all [Tt]race:|kmemleak: [0-9]+ new'

# What a kernel says of itself at its start.
good='KASAN.*(initialized|shadow)|KernelAddressSanitizer initialized'
good+='|page_table_check: enabled|Command line:|Kernel command line:'

[ $# -gt 0 ] || {
	echo "usage: check-log.sh LOG..." >&2
	exit 2
}
# ours: with KCSAN_OF the title of each data race without such an access is changed. Else what
# they access marked, and others plainly, is for others to mark.
ours()
{
	awk -v of="^(${KCSAN_OF:-.*})$" -v all="${KCSAN_OF:+x}" '
		function out(i) {
			if (n && !ours && seen)
				sub(/BUG: KCSAN/, "KCSAN", block[1])
			for (i = 1; i <= n; i++)
				print block[i]
			n = ours = seen = plain = 0
		}
		/BUG: KCSAN: / && all { out(); block[++n] = $0; next }
		!n { print; next }
		{ block[++n] = $0 }
		plain {
			sub(/^(\[[^]]*\])? */, "")
			sub(/[+.].*/, "")
			ours += $0 ~ of
			plain = 0
		}
		/ to 0x[0-9a-f]+ of [0-9]+ bytes by / { seen = 1; plain = !/\(marked/ || / of 4 bytes / }
		/====/ { out() }
		END { out() }'
}

status=0
for f; do
	[ -s "$f" ] || {
		echo "check-log.sh: $f is missing or empty" >&2
		exit 2
	}
	if found=$(tr -d '\r' <"$f" | ours | grep -nE -- "$bad" | grep -vE -- "$good"); then
		echo "$f:" >&2
		echo "$found" >&2
		status=1
	fi
done
exit $status
