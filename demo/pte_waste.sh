#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# pte_waste.sh: fills a redis-server whose allocator gives memory back in small pieces,
# flushes it, and prints what pte_waste says: for a guest, after make pte_waste.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill $pid; rm -rf "$dir"' EXIT
cli=(redis-cli -e -s "$dir/socket")
here=$(cd "$(dirname "$0")" && pwd)

LD_PRELOAD=libtcmalloc_minimal.so.4 TCMALLOC_AGGRESSIVE_DECOMMIT=1 redis-server --port 0 \
	--unixsocket "$dir/socket" --dir "$dir" --save '' --appendonly no \
	--enable-debug-command yes >"$dir/log" &
pid=$!
until "${cli[@]}" ping >/dev/null 2>&1; do
	sleep 0.1
done
for i in {0..7}; do
	"${cli[@]}" -n "$i" debug populate 40000 key 300 >/dev/null
done
"${cli[@]}" flushall sync >/dev/null
"${cli[@]}" memory purge >/dev/null
sleep 1
"$here/../pte_waste" "$@"
