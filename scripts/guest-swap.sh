#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# guest-swap.sh MiB: in a guest, turns on so much swap, on a loop device whose file is in
# memory and is not swapped out itself. Prints the device.
set -euo pipefail
dir=$(mktemp -d)
mount -t tmpfs -o noswap swap "$dir"
truncate -s "$1M" "$dir/swap"
device=$(losetup -f --show "$dir/swap")
mkswap -q "$device"
swapon "$device"
echo "$device"
