#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs shellcheck on the scripts; checkpatch --strict, kernel-doc, W=1 and sparse on
# what the series adds. Files that Linux has are compared with stock: only what
# the series brings counts.
set -euo pipefail
options='JOBS'
words='[shell]'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

src=$build/src/pte_ref
out=$build/lint
failed=0

need shellcheck perl python3 sparse
mkdir -p "$out"

check()	# NAME COMMAND...: silent or failed
{
	local name=$1 said
	shift
	if said=$("$@" 2>&1) && [ -z "$said" ]; then
		return
	fi
	failed=$((failed + 1))
	log "lint: $name"
	log "${said:-failed without a message}"
}

step lint "shellcheck"
mapfile -t scripts < <(cd "$top" && grep -lE '^#!.*(bash|sh)$' -r scripts bench demo .ci --include='*.sh' --include=run)
(cd "$top" && check shellcheck shellcheck -x "${scripts[@]}"
	exit "$failed") || failed=$((failed + 1))
step_done
if [ "${1:-}" = shell ]; then
	exit $((failed > 0))
fi

[ -d "$src" ] || die "no source: run make source"
step lint "checkpatch, kernel-doc"
mapfile -t new < <(series | cut -s -d' ' -f2- | tr ' ' '\n')
cp="$src/scripts/checkpatch.pl"
# The source is no git tree, so it knows no commit of a Fixes: line.
checkpatch=(perl "$cp" --strict --quiet --no-summary --show-types --ignore UNKNOWN_COMMIT_ID
	--root="$src")
# accepted FILE: an option with what is not to be said of it
accepted()
{
	awk -v f="$1" '$1 == f { types = types "," $2 } END { print "--ignore=UNKNOWN_COMMIT_ID" types }' \
		"$top/scripts/lint.accepted"
}
mapfile -t patches < <(series_patches)
for p in "${patches[@]}"; do
	grep -q '^diff --git ' "$p" || continue
	check "checkpatch $(basename "$p")" "${checkpatch[@]}" "$p"
done
for f in "${new[@]}"; do
	# The tree must know the symbols that the file uses.
	before=$failed
	(cd "$src" && check "checkpatch $f" "${checkpatch[@]}" "$(accepted "$f")" -f "$f"
		exit $((failed > before))) || failed=$((failed + 1))
	case $f in
	*.c | *.h)
		check "kernel-doc $f" env -C "$src" PYTHONDONTWRITEBYTECODE=1 \
			python3 tools/docs/kernel-doc -none -Wall -Werror "$f" ;;
	esac
done
step_done

# Tools that Linux does not have yet: with its rules, and without warnings.
for f in pte_waste pte_waste_test; do
	check "checkpatch $f.c" env -C "$src" "${checkpatch[@]}" -f "$top/tools/mm/$f.c"
	check "gcc $f.c" gcc -O2 -Wall -Wextra -Wshadow -fsyntax-only "$top/tools/mm/$f.c"
done
check pte_waste.8 groff -man -ww -z -Tutf8 "$top/tools/mm/pte_waste.8"

# Objects of the C files that the series adds or edits and that this config builds.
mapfile -t files < <({
	printf '%s\n' "${new[@]}"
	edited
} | sort -u | grep -E '^(mm|lib|kernel|fs|arch/x86)/.*\.c$' || true)
[ ${#files[@]} -gt 0 ] || die "the series touches no C file"

# Warnings without line numbers, which an edit above them changes.
warnings()
{
	grep -E '(warning|error):' "$1" | grep -vE 'unknown (attribute|option)|No rule to make target' |
		sed -E -e 's,^.*/(src/stock|src/pte_ref)/,,' -e 's,^(\.\./)+,,' -e 's/:[0-9]+(:[0-9]+)?:/:/' |
		sort || true
}

for k in stock pte_ref; do
	objects=()
	for f in "${files[@]}"; do
		[ ! -f "$build/src/$k/$f" ] || objects+=("${f%.c}.o")
	done
	KERNEL=$k DEBUG=1 OUT=$out/$k TARGETS=prepare "$top/scripts/kernel.sh"
	step lint "W=1 and sparse, $k"
	for o in "${objects[@]}"; do
		rm -f "$out/$k/$o"
	done
	# -k: an object that this config does not build is no failure. Sparse before 0.6.5
	# does not know __typeof_unqual__.
	kmake -C "$build/src/$k" O="$out/$k" ARCH=x86_64 -k -j"${JOBS:-$(nproc)}" W=1 C=1 \
		CHECK='sparse -D__typeof_unqual__=__typeof__' "${objects[@]}" >"$out/$k.log" 2>&1 || true
	! grep 'sparse is not available' "$out/$k.log" >&2 || die "sparse does not understand this Linux"
	[ -f "$out/$k/mm/memory.o" ] || die "nothing was compiled, see $out/$k.log"
	warnings "$out/$k.log" >"$out/$k.warnings"
	step_done
done
added=$(comm -13 "$out/stock.warnings" "$out/pte_ref.warnings" |
	grep -vFf <(awk '$2 == "sparse" { print $1 ": error: bad constant expression" }' \
		"$top/scripts/lint.accepted")) || true
if [ -n "$added" ]; then
	failed=$((failed + 1))
	log "lint: compiler and sparse say of what is new (see $out/pte_ref.log):"
	log "$added"
fi
[ "$failed" -eq 0 ] || die "$failed complaints"
