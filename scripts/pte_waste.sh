#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# pte_waste.sh WHERE...: tools/mm/pte_waste against a program that knows its own tables.
#   native: on this machine, built as a user does, in a copy of what that needs.
#   stock, pte_ref: in a guest with that kernel, where nearly nothing may be skipped.
#   image: in a guest with the kernel IMAGE, a distribution's vmlinuz of x86_64, say.
#   compare: what stock's pte_waste said pte_ref gives back, with what it did give back.
# Output is kept in BUILD/log.
set -euo pipefail
options='IMAGE TIMEOUT'
words='[native|stock|pte_ref|compare|image]...'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

bin=$build/pte_waste
tool=$bin/tool/pte_waste
prog=$bin/pte_waste_test
# The guests have no CONFIG_KCMP.
may_skip=" shared_mm "

need make gcc
lock pte_waste
mkdir -p "$bin/tool/tools/mm" "$build/log"
cp "$top/Makefile" "$bin/tool/"
cp "$top/tools/mm/pte_waste.c" "$bin/tool/tools/mm/"
rm -f "$tool"
make -s --no-print-directory -C "$bin/tool" pte_waste CC='gcc -Werror'
gcc -O2 -static -Wall -Wextra -Werror -o "$prog" "$top/tools/mm/pte_waste_test.c"

# In the guest: swap on a loop device, huge pages of hugetlb.
guest="set -e; truncate -s 64M /tmp/swap; swap=\$(losetup -f --show /tmp/swap)
	mkswap -q \"\$swap\"; swapon \"\$swap\"; echo 8 >/proc/sys/vm/nr_hugepages
	'$prog' '$tool'; '$prog' '$tool' predict"

boot()	# KERNEL
{
	KERNEL=$1 NAME=pte_waste-$1 TIMEOUT=${TIMEOUT:-$(patience 200)} RUN=$guest \
		"$top/scripts/boot.sh" 2>&1
}

# A kernel without the drivers that scripts/boot.sh needs: the two programs alone.
boot_image()
{
	local dir=$bin/image
	need cpio qemu-system-x86_64
	[ -f "${IMAGE:-}" ] || die "IMAGE=${IMAGE:-}: no such file"
	rm -rf "$dir"
	mkdir -p "$dir"
	cp "$prog" "$dir/init"
	gcc -O2 -static -Wall -Wextra -Werror -o "$dir/pte_waste" "$top/tools/mm/pte_waste.c"
	(cd "$dir" && printf '%s\n' init pte_waste | cpio --quiet -o -H newc) >"$bin/initramfs"
	timeout -k 5 "${TIMEOUT:-$(patience 200)}" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 1G \
		-nodefaults -display none -no-reboot -serial stdio -kernel "$IMAGE" \
		-initrd "$bin/initramfs" -append "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check" \
		</dev/null 2>&1 | tr -d '\r'
	grep -qx '# status 0' "$build/log/pte_waste-image.log"
}

# verdict OUTPUT SKIP: what is wrong with a run, one to a line. SKIP: these may be skipped.
verdict()
{
	awk -v may="$2" '
		/^1\.\.[0-9]+$/ { plan = substr($0, 4) + 0 }
		/^(not )?ok / {
			ran++
			name = $1 == "ok" ? $3 : $4
			sub(/\.pagemap$/, "", name)
			if ($1 != "ok")
				print name ": failed"
			else if (/# SKIP/ && may != "all" && !index(may, " " name " "))
				print name ": skipped:" substr($0, index($0, "# SKIP") + 6)
			done += $1 == "ok" && !/# SKIP/
		}
		/^# / { print }
		END {
			if (!plan || ran != plan)
				printf "%d of %d cases have a result\n", ran, plan
			if (!done)
				print "every case is skipped"
		}' "$1" | grep -vE '^# (1 TiB in |[0-9]+ full tables in |entries of perf are |status 0$)' || true
}

# Tables that are left with pte_ref are those of stock without what pte_waste named, within
# one for each mapping. Lines: predict NAME MAPPINGS TABLES AT_LEAST AT_MOST.
compare()
{
	local files=("$build/log/pte_waste-stock.log" "$build/log/pte_waste-pte_ref.log")
	awk '$1 != "predict" { next }
		FNR == NR { tables[$2] = $4; least[$2] = $5; most[$2] = $6; next }
		!($2 in tables) { print $2 ": not on stock"; bad = 1; next }
		{
			freed = tables[$2] - $4
			verdict = "as predicted"
			if (freed < least[$2] - $3 || freed > most[$2] + $3) {
				verdict = "WRONG"
				bad = 1
			}
			printf "%s: of %d tables %d to %d were to be freed, %d are: %s\n", $2,
				tables[$2], least[$2], most[$2], freed, verdict
			if ($6 > 3 * $3) {
				printf "%s: %d could still be freed\n", $2, $6
				bad = 1
			}
			n++
		}
		END { exit bad || n < 5 }' "${files[@]}"
}

[ $# -gt 0 ] || set -- native stock pte_ref compare
bad=0
for where; do
	output=$build/log/pte_waste-$where.log
	console=$build/log/console-pte_waste-$where.log
	status=0
	step pte_waste "$where"
	case $where in
	native)
		"$prog" "$tool" >"$output" 2>&1 || status=$?
		wrong=$(verdict "$output" all) ;;
	image)
		boot_image >"$output" || status=$?
		wrong=$(verdict "$output" all) ;;
	stock | pte_ref)
		need losetup mkswap swapon
		run_guest "$output" boot "$where" >/dev/null || status=$?
		wrong=$(verdict "$output" "$may_skip"
			"$top/scripts/check-log.sh" "$console" 2>&1 || true) ;;
	compare)
		compare >"$output" || status=$?
		wrong=''
		cat "$output" ;;
	*)	die "$where: must be native, stock, pte_ref, image or compare" ;;
	esac
	step_done
	if [ $status -ne 0 ] || [ -n "$wrong" ]; then
		bad=$((bad + 1))
		[ $status -lt 124 ] || tail -n 1 "$output" >&2
		log "$wrong"
		echo "$where: wrong, status $status, see $output"
	else
		[ "$where" = compare ] || echo "$where: $(grep -cE '^ok ' "$output" || true) cases pass, $(grep -c '# SKIP' "$output" || true) of them skipped"
	fi
done
[ $bad -eq 0 ]
