#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs Linux's own tests of mm on stock and on pte_ref, both with the debug options: those
# of tools/testing/selftests/mm as its run_vmtests.sh does, hmm-tests, and at boot its KUnit
# suites and debug_vm_pgtable. Compares them test by test and says which passes on stock
# and does not on pte_ref. Arguments choose categories of run_vmtests.sh, or hmm. What
# needs modules or /dev/mem does not run: vmalloc, page_frag, pfnmap. TIME: seconds that a category may take.
# STOCK=kept: compares with what stock said the last time.
set -euo pipefail
options='STOCK TIME'
words='[CATEGORY]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

dir=$build/mm-tests
src=$dir/src
tests=$dir/bin
time=$(patience "${TIME:-1200}")
[ $# -gt 0 ] || set -- mmap gup_test userfaultfd compaction mlock mremap hugevm madv_guard \
	madv_populate memfd_secret process_mrelease ksm ksm_numa pkey soft_dirty pagemap process_madv \
	cow thp hugetlb migration mkdirty mdwe vma_merge rmap memory-failure hmm

[ -f "$build/src/stock.stamp" ] || die "no source: run make source"
need make gcc losetup mkswap swapon
kernels=(stock pte_ref)
if [ "${STOCK:-}" = kept ]; then
	kernels=(pte_ref)
	[ -f "$build/log/mm-tests-stock.log" ] || die "STOCK=kept: stock did not run yet"
fi
lock mm-tests
"$top/scripts/packages.sh" mm

# The same programs for both, of stock. make writes beside the source: it is a copy, by links.
step mm-tests "build the tests"
rm -rf "$dir"
mkdir -p "$src" "$tests" "$build/log"
cp -al "$build/src/stock"/{Kbuild,Makefile,arch,include,lib,mm,scripts,tools} "$src/"
{
	kmake -C "$src" O="$dir/headers" headers
	kmake -C "$src/tools/testing/selftests/mm" OUTPUT="$tests" \
		KHDR_INCLUDES="-isystem $dir/headers/usr/include" -j"$(nproc)"
} </dev/null >"$build/log/mm-tests.build.log" 2>&1 ||
	die "the tests do not compile, see $build/log/mm-tests.build.log"
cp "$src"/tools/testing/selftests/mm/*.sh "$tests/"
step_done

# In the guest each category has its time, and its lines begin with its name.
guest="set -e; dir=\$(mktemp -d); cp -r '$tests/.' \$dir; cd \$dir
'$top/scripts/guest-swap.sh' 512 >/dev/null
for c in $*; do
	case \$c in
	hmm) set -- ./hmm-tests ;;
	*) set -- bash ./run_vmtests.sh -t \$c ;;
	esac
	timeout -k 5 $time \"\$@\" </dev/null 2>&1 | sed \"s/^/\$c: /\"
	echo \"\$c: end \${PIPESTATUS[0]}\"
done
grep ^pte_ref_free /proc/vmstat || true"

# run KERNEL CATEGORY...
bad=0
run()
{
	wide_kernel "$1"
	step mm-tests "$1"
	# The output of a guest that died is worth comparing too.
	KERNEL=$1 NAME=mm-tests-$1 MEM=4G \
		TIMEOUT=$((time * $#)) APPEND='numa=fake=2 kunit.enable=1 kunit.autorun=1' \
		RUN=$guest run_guest "$build/log/mm-tests-$1.log" "$top/scripts/boot.sh" >/dev/null 2>&1 || {
		bad=1
		log "$1: the guest ended early, see $build/log/console-mm-tests-$1.log"
	}
	step_done
	# debug_vm_pgtable has nothing but warnings.
	"$top/scripts/check-log.sh" "$build/log/console-mm-tests-$1.log" || bad=1
}

# results KERNEL: "RESULT<tab>TEST", of TAP in the output and of KTAP in the console. What
# a program says of its parts is "CATEGORY: PROGRAM: PART", with N for each number, since
# some say what they measured; a name that comes again has its count.
results()
{
	{
		tr -d '\r' <"$build/log/console-mm-tests-$1.log" |
			sed -nE 's/^(\[[^]]*\])? *((not )?ok [0-9]+ .*)/kunit: \2/p'
		cat "$build/log/mm-tests-$1.log"
	} | awk '
		{ part = / # (not )?ok [0-9]/; category = $1; sub(/^[^ ]+ (# )?/, "") }
		/^running / { program = " " substr($0, 9) ":"; next }
		!/^(not )?ok [0-9]+ / { next }
		{
			result = /^not/ ? "fail" : /# SKIP/ ? "skip" : "ok"
			sub(/^(not )?ok [0-9]+ (- )?/, "")
			sub(/ *# (SKIP|exit|Timeout).*/, "")
			if (part)
				gsub(/[0-9.]+/, "N")
			name = category (part ? program : "") " " $0
			n = ++seen[name]
			print result "\t" name (n > 1 ? " (" n ")" : "")
		}'
}

# worse: the tests that pass on stock, with what they do on pte_ref.
worse()
{
	awk -F'\t' 'NR == FNR { got[$2] = $1; next }
		$1 == "ok" && got[$2] != "ok" { print (got[$2] ? got[$2] : "missing") "\t" $2 }' \
		"$dir/pte_ref" "$dir/stock"
}

for kernel in "${kernels[@]}"; do
	run "$kernel" "$@"
done
# A category that was cut off has no less to pass.
cut=$(grep -HE '^[a-z_-]+: end (124|137)$' "$build/log"/mm-tests-{stock,pte_ref}.log || true)
[ -z "$cut" ] || die "ended by the limit of time: ${cut//"$build/log/"/}"
for freed in pte_ref_free pte_ref_free_deferred; do
	grep -q "^$freed [1-9]" "$build/log/mm-tests-pte_ref.log" ||
		die "$freed: no table was freed meanwhile"
done
for kernel in stock pte_ref; do
	results "$kernel" | grep -E "	(kunit|$(tr ' ' '|' <<<"$*")): " >"$dir/$kernel" || true
	echo "$kernel: $(cut -f 1 "$dir/$kernel" | sort | uniq -c | xargs)"
	for category in kunit "$@"; do
		grep -q "	$category: " "$dir/$kernel" ||
			die "$kernel: no test of $category ran, see $build/log/mm-tests-$kernel.log"
	done
done
for category in "$@"; do
	grep -q "^ok	$category: " "$dir/stock" || die "nothing of $category passes on stock"
done
found=$(worse)
[ -z "$found" ] || {
	echo "$found"
	die "$(wc -l <<<"$found") tests pass on stock and not on pte_ref"
}
[ $bad -eq 0 ] || die "a guest ended early, or its console shows what it must not"
