#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# With CONFIG_FREE_USER_PTE=n the C files that the series edits compile to the code
# and data that they have without it, with no more than the patches before the one
# that brings mm/pte_ref.c: fixes, and features of a library. patches/differs-when-off
# lists the files that must not, one to a line with the reason behind a #; for another
# version than the first patches/VERSION/differs-when-off, if it is there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

before=$build/kernel-before
off=$build/kernel-off
src=$build/src/before
except=$top/patches/differs-when-off
version=$(version) || exit 1
[ ! -f "$top/patches/$version/differs-when-off" ] ||
	except=$top/patches/$version/differs-when-off

need objdump patch sha256sum
# Tells which objects this configuration has.
KERNEL=stock DEBUG=0 "$top/scripts/kernel.sh"

# The source before the core. Files that patch changes get an inode of their own.
patches=()
while read -r p f; do
	[[ " $f " != *" mm/pte_ref.c "* ]] || break
	patches+=("$top/patches/$p")
done < <(series)
id=$(cat "$build/src/stock.stamp" "${patches[@]}" | sha256sum)
# A tree that the user works in may have changed under the same name.
if [ "$id" != "$(cat "$src.stamp" 2>/dev/null)" ] || grep -q '^tree ' "$build/src/stock.stamp"; then
	step check-off "source with the ${#patches[@]} patches before mm/pte_ref.c"
	rm -rf "$src" "$src.stamp"
	cp -al "$build/src/stock" "$src"
	cat "${patches[@]}" | patch -d "$src" -p1 -F0 -s --batch --forward --no-backup-if-mismatch
	echo "$id" >"$src.stamp"
	step_done
fi

# Beside the edited files, some that use nearly every header of mm.
objects=()
while IFS= read -r f; do
	[ ! -e "$build/kernel-stock/${f%.c}.o" ] || objects+=("${f%.c}.o")
done < <({
	edited
	printf '%s\n' mm/memory.c mm/mmap.c mm/mprotect.c mm/rmap.c mm/vmscan.c mm/gup.c \
		mm/pgtable-generic.c mm/vmstat.c kernel/fork.c fs/proc/task_mmu.c arch/x86/mm/pgtable.c
} | grep '\.c$' | sort -u)
KERNEL=stock SRC=$src OUT=$before TARGETS="${objects[*]}" "$top/scripts/kernel.sh"
KERNEL=stock SRC=$build/src/pte_ref OUT=$off TARGETS="${objects[*]}" "$top/scripts/kernel.sh"

# Addresses and line numbers (of WARN_ON and the like) move, and with them the
# numbers in the names of local symbols; all else must be the same.
picture()
{
	objdump -dr --no-show-raw-insn --no-addresses "$1" | tail -n +3 |
		sed -E 's/(__UNIQUE_ID_[A-Za-z_]*|\.L[A-Z]*)[0-9]+(_[0-9]+)?/\1/g'
	objdump -s -j .data -j .init.data -j .data..read_mostly -j .data..ro_after_init "$1" 2>/dev/null |
		tail -n +3 || true
	objdump -h "$1" | awk '$2 ~ /^\.(rodata|bss)/ { print $2, $3 }'
}

step check-off "comparing ${#objects[@]} objects"
bad=0
for o in "${objects[@]}"; do
	expected=same
	if [ -f "$except" ] && sed 's/[[:space:]]*#.*//' "$except" | grep -qxF "${o%.o}.c"; then
		expected=different
	fi
	found=same
	diff <(picture "$before/$o") <(picture "$off/$o") >"$build/log/check-off.diff" || found=different
	[ "$found" != "$expected" ] || continue
	bad=$((bad + 1))
	if [ $found = different ]; then
		log "${o%.o}.c: $(grep -c '^[<>]' "$build/log/check-off.diff") lines differ"
		mv "$build/log/check-off.diff" "$build/log/check-off-$(tr / - <<<"$o").diff"
	else
		log "${o%.o}.c: is in patches/differs-when-off, but is the same"
	fi
done
[ "$bad" -eq 0 ] || die "$bad of ${#objects[@]} files are not what they were, see $build/log/check-off-*.diff"
step_done
