#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# With CONFIG_FREE_USER_PTE=n each function of the C files that the series edits compiles
# to the code that it has without it, with no more than the patches before the one that
# brings mm/pte_ref.c: fixes, and features of a library; and so does their data.
# patches/differs-when-off lists the functions that must not: file, function and a reason
# behind a #. Those of a file must call in others what they called. For another version than
# the first there may be patches/VERSION/differs-when-off. With the debug options, where each
# line number is in the code, a file refers to the same functions and variables of others.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

src=$build/src/before
except=$top/patches/differs-when-off
version=$(version) || exit 1
[ ! -f "$top/patches/$version/differs-when-off" ] ||
	except=$top/patches/$version/differs-when-off

need objdump patch sha256sum
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

# Tells which objects this configuration has.
KERNEL=stock DEBUG=0 "$top/scripts/kernel.sh"
# Beside the edited files, some that use nearly every header of mm.
objects=()
while IFS= read -r f; do
	[ ! -e "$build/kernel-stock/${f%.c}.o" ] || objects+=("${f%.c}.o")
done < <({
	edited
	printf '%s\n' mm/memory.c mm/mmap.c mm/mprotect.c mm/rmap.c mm/vmscan.c mm/gup.c \
		mm/pgtable-generic.c mm/vmstat.c kernel/fork.c fs/proc/task_mmu.c arch/x86/mm/pgtable.c
} | grep '\.c$' | sort -u)

[ ${#objects[@]} -gt 11 ] || die "the series edits nothing that is compiled"

# What is not compiled is not compared.
while read -r f; do
	[[ " ${objects[*]} " == *" ${f%.c}.o "* ]] || die "${except#"$top/"}: $f is not compiled"
done < <(sed 's/#.*//' "$except" | awk 'NF { print $1 }' | sort -u)

# The functions of an object, one to a line: name, what it calls, code. Addresses and line
# numbers (of WARN_ON and the like) move, and with them the numbers in the names of local
# symbols, and all that alternatives point to.
functions()
{
	objdump -dr --no-show-raw-insn --no-addresses "$1" |
		sed -E 's/(__UNIQUE_ID_[A-Za-z_]*|\.L[A-Z]*)[0-9]+(_[0-9]+)?/\1/g; s/[[:space:]]+/ /g' |
		awk '
		function out() { if (name != "") print name "\t" calls "\t" code; code = calls = "" }
		/^<[^>]*>:$/ { out(); name = substr($0, 2, length($0) - 3); next }
		name == "" { next }
		name ~ /^\./ { gsub(/[+-]0x[0-9a-f]+/, "") }
		/R_[A-Z0-9_]*PLT32/ { sub(/-0x4$/, ""); calls = calls " " $NF }
		{ code = code $0 ";" }
		END { out() }'
}

# The same of its data: contents of what is written, sizes of what the compiler makes.
data()
{
	local section
	for section in .data .init.data .data..read_mostly .data..ro_after_init .data..percpu; do
		printf '%s\t\t' "$section"
		objdump -s -j "$section" "$1" 2>/dev/null | tail -n +4 | tr '\n' ';' || true
		echo
	done
	objdump -h "$1" | awk '$2 ~ /^(\.rodata|\.bss|\.altinst|\.init\.rodata|__|\.static_call)/ {
		print $2 "\t\t" $3 }'
}

# calls OBJECT FILE-OF-NAMES: what these functions of it call in other objects.
calls()
{
	functions "$1" | awk -F'\t' 'NR == FNR { wanted[$1]; next } $1 in wanted { print $2 }' "$2" - |
		tr ' ' '\n' | sort -u | comm -12 - <(nm -u "$1" | awk '{ print $NF }' | sort -u)
}

# compare BEFORE OFF: function by function
compare()
{
	local o d f bad=0 dir=$build/log/check-off
	mkdir -p "$dir"
	for o in "${objects[@]}"; do
		for d in "$1" "$2"; do
			{ functions "$d/$o" && data "$d/$o"; } | sort >"$dir/$(basename "$d")"
			grep -q '^[a-z_]' "$dir/$(basename "$d")" || die "no function is read of $d/$o"
		done
		diff "$dir/$(basename "$1")" "$dir/$(basename "$2")" | sed -n 's/^[<>] \([^\t]*\)\t.*/\1/p' |
			sort -u >"$dir/found"
		sed 's/#.*//' "$except" | awk -v f="${o%.o}.c" '$1 == f { print $2 }' | sort -u >"$dir/expected"
		while read -r f; do
			log "${o%.o}.c: $f differs"
			bad=$((bad + 1))
		done < <(comm -23 "$dir/found" "$dir/expected")
		while read -r f; do
			log "${o%.o}.c: $f is in ${except#"$top/"}, but is the same"
			bad=$((bad + 1))
		done < <(comm -13 "$dir/found" "$dir/expected")
		diff <(calls "$1/$o" "$dir/expected") <(calls "$2/$o" "$dir/expected") >"$dir/calls" || {
			log "${o%.o}.c: what is in ${except#"$top/"} calls something else:" \
				"$(grep '^[<>]' "$dir/calls" | tr '\n' ' ')"
			bad=$((bad + 1))
		}
	done
	return $((bad > 0))
}

# compare_names BEFORE OFF: only what each object needs of others
compare_names()
{
	local o bad=0
	for o in "${objects[@]}"; do
		diff <(nm -u "$1/$o" | sort) <(nm -u "$2/$o" | sort) >"$tmp" || {
			log "${o%.o}.c: refers to something else: $(grep '^[<>]' "$tmp" | tr '\n' ' ')"
			bad=$((bad + 1))
		}
	done
	return $((bad > 0))
}

# build_and SUFFIX COMMAND
build_and()
{
	KERNEL=stock SRC=$src OUT=$build/kernel-before$1 TARGETS="${objects[*]}" "$top/scripts/kernel.sh"
	KERNEL=stock SRC=$build/src/pte_ref OUT=$build/kernel-off$1 TARGETS="${objects[*]}" "$top/scripts/kernel.sh"
	step check-off "comparing ${#objects[@]} objects${1:+, debug}"
	"$2" "$build/kernel-before$1" "$build/kernel-off$1" || failed=$((failed + 1))
	step_done
}

tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT
failed=0
how=compare
gcc=$(sed -n 's/^# gcc \([0-9]*\)$/\1/p' "$except")
[ -n "$gcc" ] || die "${except#"$top/"} does not say of which gcc it is"
if [ "$gcc" != "$(gcc -dumpversion | cut -d. -f1)" ]; then
	log "[check-off] gcc is not version $gcc, of which ${except#"$top/"} speaks: names only"
	how=compare_names
fi
DEBUG=0 build_and "" $how
DEBUG=1 build_and -debug compare_names
[ "$failed" -eq 0 ] || die "with the option off not everything is what it was"
