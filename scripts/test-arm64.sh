#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boots what make test does not of arm64, the debug kernel each time: other page sizes,
# numbers of levels, CPUs and machines. A line for each, and the status 1 if one failed.
# Arguments choose.
set -euo pipefail
options='TIMEOUT'
words='[4k|16k|64k|two-levels|no-range-tlbi|mte|efi|kasan]...'
export ARCH=arm64 KERNEL=pte_ref DEBUG=1 TIME=''
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

failed=0
# A guest that is interrupted is not one that failed.
trap 'exit 130' INT TERM

# one NAME COMMAND...: its line; what the command says is kept.
one()
{
	local name=$1 start=$SECONDS word=ok
	shift
	("$@") >"$build/log/arm64-$name.log" 2>&1 || word=FAIL
	[ $word = ok ] || failed=$((failed + 1))
	echo "$word $name ($((SECONDS - start)) s)"
	[ $word = ok ] || tail -n 5 "$build/log/arm64-$name.log" | sed 's/^/    /'
}

kunit()
{
	"$top/scripts/kernel.sh" && "$top/scripts/kunit-qemu.sh"
}

all()
{
	kunit && "$top/scripts/selftest.sh" pte_ref && "$top/scripts/race.sh"
}

# The firmware starts the kernel, which has tables of EFI then, and no ACPI.
efi()
{
	local firmware=/usr/share/qemu-efi-aarch64/QEMU_EFI.fd
	[ -f $firmware ] || die "$firmware is missing: run scripts/packages.sh"
	"$top/scripts/kernel.sh" &&
		NAME=efi QEMU_OPTS="-M virt,acpi=off -bios $firmware" RUN="dmesg | grep 'efi: EFI v'" \
		"$top/scripts/boot.sh" &&
		"$top/scripts/check-log.sh" "$build/log/console-efi-arm64.log"
}

mkdir -p "$build/log"
"$top/scripts/packages.sh"
[ $# -gt 0 ] || set -- 4k 16k 64k two-levels no-range-tlbi mte efi kasan
for name; do
	case $name in
	4k) one 4k all ;;
	16k) PAGES=16k one 16k all ;;
	64k) PAGES=64k one 64k all ;;
	two-levels) PAGES=64k-va42 one two-levels all ;;
	no-range-tlbi) CPU=cortex-a57 one no-range-tlbi all ;;
	mte) MTE=1 QEMU_OPTS="-M virt,mte=on" one mte all ;;
	efi) one efi efi ;;
	# More than that takes too long without an arm64 machine.
	kasan)
		DEBUG=kasan IMAGE=$(kernel_image pte_ref kasan) TIMEOUT=$(patience 1200) \
			one kasan kunit
		;;
	*) die "$name is none of: $words" ;;
	esac
done
[ $failed -eq 0 ]
