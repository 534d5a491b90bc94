#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the KUnit suites of the series on UML with two CPUs and prints what kunit.py
# says; the exit status is that of kunit.py. Fails too if a test was skipped and
# does not say why. FILTER: suite or suite.test, as kunit.py takes it.
# KUNIT_CONFIG: another file than configs/um.kunitconfig, with an OUT of its own.
# BUILT=1: runs the kernel that is in OUT.
set -euo pipefail
options='BUILT FILTER JOBS KUNIT_CONFIG OUT SRC TIMEOUT'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

src=${SRC:-$build/src/pte_ref}
out=${OUT:-$build/kunit-um}
config=${KUNIT_CONFIG:-$top/configs/um.kunitconfig}

[ -f "$src/Makefile" ] || die "$src is missing: run make source"
need make gcc bc flex bison python3
need_space "$build" 1500
lock kunit

use_ccache

step kunit "KUnit on UML"
limit=${TIMEOUT:-$(patience 3000)}
# Of which the kernel may take so many seconds, so that kunit.py ends one that hangs.
kernel=$(patience 300)
[ "$kernel" -lt "$limit" ] || kernel=$((limit * 9 / 10))
mkdir -p "$out"
rm -f "$out/test.log"
command=(run --kunitconfig "$config" --jobs "${JOBS:-$(nproc)}"
	--make_options "CC=$hostcc" --make_options "HOSTCC=$hostcc")
[ -z "${BUILT:-}" ] || command=(exec)
status=0
env -C "$src" -u ARCH -u BUILD -u KERNEL -u DEBUG -u LINUX -u VERSION PYTHONDONTWRITEBYTECODE=1 \
	timeout -k 10 "$limit" python3 tools/testing/kunit/kunit.py "${command[@]}" --build_dir "$out" \
	--timeout "$kernel" --kernel_args ncpus=2 --kernel_args seccomp=on \
	${FILTER:+"$FILTER"} </dev/null || status=$?
step_done
[ "$status" -ne 124 ] || die "time limit of $limit s reached, see $out/test.log"
[ "$status" -eq 0 ] || exit "$status"
[ -s "$out/test.log" ] || die "no test has run"
if grep -qE '# SKIP *$' "$out/test.log"; then
	die "a test was skipped without a reason, see $out/test.log"
fi
"$top/scripts/check-log.sh" "$out/test.log"
