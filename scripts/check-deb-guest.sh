#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# check-deb-guest.sh PACKAGE: one step of check-deb.sh for each boot of its guest, in which
# this runs as a service when everything else is up. Says what it found in
# /var/lib/check-deb/log and turns the guest off, or boots it again.
set -Eeuo pipefail

package=$1
state=/var/lib/check-deb
cli=(redis-cli -e)

say()
{
	echo "$*" >>$state/log
	echo "check-deb: $*" >/dev/console
}

fail()
{
	say "FAIL $step: $*"
	sync
	systemctl poweroff
	exit 1
}

# kb NAME: of redis-server's status.
kb()
{
	awk -v name="$1:" '$1 == name { print $2 }' "/proc/$(pidof redis-server)/status"
}

# freed: tables that pte_ref freed since the boot.
freed()
{
	awk '$1 ~ /^pte_ref_free(_deferred)?$/ { sum += $2; n++ } END { print n == 2 ? sum : "none" }' /proc/vmstat
}

up()
{
	local bad
	systemctl is-active --quiet multi-user.target || fail "multi-user.target is not active"
	bad=$(systemctl list-units --failed --plain --no-legend | awk '{ print $1 }')
	[ -z "$bad" ] || fail "${bad//$'\n'/ } failed"
}

# redis-server filled and flushed: a third at least of the tables that it had to make go;
# jemalloc keeps a page in others.
redis()
{
	local before top after free i
	free=$(freed)
	"${cli[@]}" config set save '' >/dev/null
	before=$(kb VmPTE)
	"${cli[@]}" eval "for i = 1, 300000 do redis.call('set', 'key' .. i, string.rep('x', 300)) end" 0 >/dev/null
	top=$(kb VmPTE)
	"${cli[@]}" flushall >/dev/null
	"${cli[@]}" memory purge >/dev/null
	for ((i = 0; ; i++)); do
		after=$(kb VmPTE)
		[ $((3 * (top - after))) -lt $((top - before)) ] || break
		[ $i -lt 60 ] || fail "redis-server keeps its tables: VmPTE $before kB, filled $top, flushed $after"
		sleep 1
	done
	[ "$(freed)" -gt "$free" ] || fail "redis-server's tables were not freed by pte_ref"
	say "redis-server: VmPTE $before kB, filled $top kB, flushed $after kB; pte_ref freed $(($(freed) - free)) tables"
}

mkdir -p $state
step=$(cat $state/step 2>/dev/null || echo new)
exec 2>>$state/log
trap 'fail "line $LINENO"' ERR
case $step in
new | again)
	[ "$(uname -r)" = "${package#linux-image-}" ] || fail "$(uname -r) runs"
	up
	[ "$(freed)" != none ] || fail "no pte_ref in /proc/vmstat"
	;;
esac
case $step in
new)
	redis
	echo again >$state/step
	say "ok new: $(uname -r)"
	systemctl reboot
	;;
again)
	say "ok again: $(uname -r)"
	echo old >$state/step
	dpkg -r "$package" >/dev/null
	[ -z "$(find /boot -name "*${package#linux-image-}*")" ] || fail "left in /boot: $(echo /boot/*)"
	say "ok removed"
	systemctl poweroff
	;;
old)
	up
	say "ok old: $(uname -r)"
	systemctl poweroff
	;;
esac
