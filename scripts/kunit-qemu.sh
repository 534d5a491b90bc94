#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the KUnit suites of the series at the boot of a guest with two CPUs, and prints
# what kunit.py makes of the console; its exit status. No test may be skipped there:
# what UML lacks is to be had. MAY_SKIP: but with this reason.
set -euo pipefail
options='APPEND ARCH CPU MAY_SKIP PAGES TIMEOUT'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

src=$build/src/pte_ref
console=$build/log/console-kunit$flavour.log

step kunit "KUnit on $arch, pages of $pages"
KERNEL=pte_ref DEBUG=1 NAME=kunit TIMEOUT="${TIMEOUT:-$(patience 300)}" RUN=true CPUS=2 \
	APPEND="${APPEND:-} kunit.enable=1 kunit.autorun=1 kunit.filter_glob=p*_ref*" "$top/scripts/boot.sh"
step_done
PYTHONDONTWRITEBYTECODE=1 python3 "$src/tools/testing/kunit/kunit.py" parse "$console"
for suite in pte_ref_{count,holders,reclaim,deferred,percpu,model,arch} percpu_ref; do
	grep -qE "^(\[[^]]*\] )?ok [0-9]+ $suite\s*$" "$console" || die "suite $suite did not pass, see $console"
done
if grep -n '# SKIP' "$console" | grep -vF "# SKIP ${MAY_SKIP:-without a reason}"; then
	die "a test was skipped, see $console"
fi
"$top/scripts/check-log.sh" "$console"
