#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Compiles mm/ and what calls it with Debian's configuration of cloud, to which drivers of
# graphics are added, which it has not. Then once more, with W=1, the files that the series
# brings or edits: that must be silent. DIRS: other directories.
set -euo pipefail
options='DIRS JOBS'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ "$arch" = x86_64 ] || die "for x86_64 only"
export OUT=$build/check-cloud KERNEL=pte_ref DEBUG=0 EXTRA_CONFIG BASE
# Nothing is linked, so debug information would only take time.
EXTRA_CONFIG='DEBUG_INFO_NONE=y DRM=m DRM_BOCHS=m DRM_SIMPLEDRM=m DRM_VGEM=m DRM_VIRTIO_GPU=m DRM_VMWGFX=m'
BASE=$("$top/scripts/debian-config.sh" cloud-amd64) || exit 1
read -ra dirs <<<"${DIRS:-mm/ fs/ kernel/ lib/ arch/x86/ drivers/gpu/drm/ drivers/xen/ drivers/virtio/}"

TARGETS="${dirs[*]}" "$top/scripts/kernel.sh"
mapfile -t objects < <({
	series | cut -s -d' ' -f2- | tr ' ' '\n'
	edited
} | sort -u | sed -n 's/\.c$/.o/p' | while read -r o; do
	[ ! -f "$OUT/$o" ] || echo "$o"
done)
[ ${#objects[@]} -gt 0 ] || die "none of the files of the series was compiled"
(cd "$OUT" && rm -f "${objects[@]}")
step check-cloud "W=1: ${#objects[@]} files of the series"
TARGETS="W=1 ${objects[*]}" "$top/scripts/kernel.sh" >/dev/null 2>&1 ||
	die "compiling with W=1 failed, see $build/log/check-cloud.build.log"
step_done
if grep -E '(warning|error):' "$build/log/check-cloud.build.log"; then
	die "W=1 is not silent"
fi
echo "${dirs[*]}: compiled; W=1 silent on ${#objects[@]} files of the series"
