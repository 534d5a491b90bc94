#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boots a kernel by virtme-ng on the files of this machine (read only, writes
# go to memory), or with those of scripts/root.sh if ARCH= is another architecture.
# With RUN: one command; its output is the output, its exit status the exit status.
# Without: a shell. CPU= names another model of QEMU. STALLED: seconds without a line of the
# console after which a start is given up, and without KVM tried again.
#   124: time limit. 125: the guest died. 126: QEMU broke it, run it again.
# The console is kept in BUILD/log.
set -euo pipefail
options='ACCEL APPEND ARCH CPU CPUS DEBUG IMAGE KERNEL MEM NAME PAGES QEMU_OPTS RUN RWDIR STALLED TIMEOUT'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

kernel=${KERNEL:-pte_ref}
limit=${TIMEOUT:-$(patience 600)}
rwdir=$(realpath -m "${RWDIR:-$build/out}")
image=${IMAGE:-$(kernel_image "$kernel" "${DEBUG:-}")}
name=${NAME:-$kernel}$flavour
console=$build/log/console-$name.log

need "qemu-system-$gnuarch" python3 timeout
[ -f "$image" ] ||
	die "$image is missing: run make kernel KERNEL=$kernel${DEBUG:+ DEBUG=$DEBUG}${ARCH:+ ARCH=$ARCH}${PAGES:+ PAGES=$PAGES}"
[[ $limit =~ ^[0-9]+$ ]] || die "TIMEOUT=$limit: must be seconds"
mkdir -p "$rwdir" "$build/log"
virtme=$("$top/scripts/virtme.sh") || exit 1
[ ! -e "$console" ] || mv -f "$console" "$console.old"

# A table of 64K pages maps 512 MiB.
case $pages in
64k*) mem=4G ;;
*) mem=2G ;;
esac
case $arch in
x86_64) machine=() serial=ttyS0 ;;
arm64) machine=(-M virt) serial=ttyAMA0 ;;
esac

# KVM may be there and not run a kernel: only a real boot tells, once until this machine
# is booted again.
accel()
{
	local memo
	memo=$cache/accel-$(cat /proc/sys/kernel/random/boot_id)
	if [ -n "${ACCEL:-}${cross:+tcg}" ]; then
		echo "${ACCEL:-tcg}"
		return
	fi
	if [ ! -f "$memo" ]; then
		mkdir -p "$cache"
		find "$cache" -maxdepth 1 -name 'accel-*' ! -name "${memo##*/}*" -delete
		echo tcg >"$memo.$$"
		if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
			log "[boot] does KVM run a kernel?"
			timeout -k 1 "$(patience 20)" "qemu-system-$gnuarch" "${machine[@]}" -accel kvm \
				-cpu host -m 512M -nodefaults -display none -no-reboot \
				-serial "file:$build/log/kvm.log" -kernel "$image" \
				-append "console=$serial panic=-1" \
				</dev/null >/dev/null 2>&1 || true
			if grep -q 'VFS: Unable to mount root' "$build/log/kvm.log" 2>/dev/null; then
				echo kvm >"$memo.$$"
			fi
		fi
		log "[boot] using $(cat "$memo.$$")"
		mv "$memo.$$" "$memo"
	fi
	cat "$memo"
}

kvm=(--disable-kvm)
if [ "$(accel)" = kvm ]; then
	kvm=(--disable-microvm)
fi

# Without KVM a virtual CPU may stand still for long: raise the stall limits. The
# root is read only, so its files may be cached; without that each exec is slow.
rootflags=version=9p2000.L,trans=virtio,access=any,msize=512000,cache=loose
loglevel=7
if [ -z "${RUN:-}" ]; then
	loglevel=4
fi
args=("${kvm[@]}" --kimg "$image" --mods none --force-9p --no-virtme-ng-init
	--name "$name" --memory "${MEM:-$mem}" --cpus "${CPUS:-2}"
	--rwdir "$rwdir=$rwdir" --kopt "rootflags=$rootflags" --kopt "loglevel=$loglevel"
	--kopt rcupdate.rcu_cpu_stall_timeout=300
	--kopt rcupdate.rcu_exp_cpu_stall_timeout=300000
	--kopt watchdog_thresh=60 --kopt mitigations=off)
# The kernel looks at its start whether the timer ticks, and panics if not: also where a virtual
# CPU stood still just then.
[ "$arch" != x86_64 ] || args+=(--kopt no_timer_check)
# Another architecture has a root of its own, in which the files of this repository and
# of BUILD are seen too.
if [ -n "$cross" ]; then
	root=$("$top/scripts/root.sh") || exit 1
	mkdir -p "$root$top" "$root$build" "$root$rwdir"
	args+=(--root "$root" --arch "$gnuarch" --rodir "$top=$top")
	[[ $build == "$top"/* ]] || args+=(--rodir "$build=$build")
else
	root=
	args+=(--pwd)
fi
for d in etc home lib opt root srv tmp usr var; do
	# A link is covered by what it points to.
	if [ -d "$root/$d" ] && [ ! -L "$root/$d" ]; then
		args+=(--overlay-rwdir "/$d")
	fi
done
read -ra append <<<"${APPEND:-}"
for a in "${append[@]}"; do
	args+=(--kopt "$a")
done
read -ra qemu <<<"${QEMU_OPTS:-}"
# What QEMU has of the newest, but for its slow authentication of pointers.
if [ "$arch" = arm64 ] && [ "$(accel)" != kvm ]; then
	qemu=(-cpu "${CPU:-max,pauth-impdef=on}" "${qemu[@]}")
elif [ -n "${CPU:-}" ]; then
	qemu=(-cpu "$CPU" "${qemu[@]}")
fi

export PYTHONPATH=$virtme/usr/lib/python3/dist-packages
export PATH=$virtme/usr/bin:$PATH

if [ -z "${RUN:-}" ]; then
	args+=(--disable-monitor)
	[ ${#qemu[@]} -eq 0 ] || args+=(--qemu-opts "${qemu[@]}")
	exec virtme-run "${args[@]}"
fi

# virtme-run sends the console to /dev/null here. QEMU opens its standard streams
# a second time: give it pipes.
boot()
{
	timeout -k 5 "$limit" virtme-run "${args[@]}" --script-sh "$RUN" \
		--qemu-opts -set "chardev.console.path=$console" "${qemu[@]}" \
		</dev/null > >(exec cat) 2> >(exec cat >&2) &
	pid=$!
	rm -f "$console.stalled"
	watch_start </dev/null >/dev/null 2>&1 &
	watcher=$!
	status=0
	wait $pid || status=$?
	kill $watcher 2>/dev/null || true
}
pid='' watcher=''
# Who waits for us sees that we did not end by ourselves.
trap 'kill $pid $watcher 2>/dev/null; trap - INT; kill -INT $$' INT
trap 'kill $pid $watcher 2>/dev/null; exit 143' TERM

# virtme-init has not found the ports that are there: it runs the command on the console, which
# has no input, and whose output and status nobody gets.
no_ports()
{
	grep -qF 'virtme-init: starting script (console' "$console" 2>/dev/null
}

# Ends a guest whose kernel says nothing for STALLED seconds (300) before the command, and one
# without ports.
watch_start()
{
	local size=-1 now quiet=0 most
	most=$(patience "${STALLED:-300}")
	while sleep 2; do
		! no_ports || kill $pid
		! grep -q 'virtme-init: starting script' "$console" 2>/dev/null || return 0
		now=$(stat -c %s "$console" 2>/dev/null || echo 0)
		[ "$now" = "$size" ] || quiet=0
		size=$now quiet=$((quiet + 2))
		[ $quiet -ge "$most" ] || continue
		touch "$console.stalled"
		kill $pid
		return 0
	done
}

# Without KVM, one virtual CPU patches an instruction, and another executes what QEMU
# made of the breakpoint that was there meanwhile.
broken()
{
	[ "$(accel)" != kvm ] && grep -q 'Oops: int3' "$console" 2>/dev/null
}

# QEMU itself has crashed, or its timers keep it busy for ever: the console ends before the
# command, and says nothing of it. A kernel that hangs complains sooner: of a lockup, a task.
vanished()
{
	[ "$(accel)" != kvm ] && { [ $status -eq 255 ] || [ -e "$console.stalled" ]; } &&
		! grep -q 'virtme-init: starting script' "$console" 2>/dev/null &&
		{ "$top/scripts/check-log.sh" "$console" >/dev/null 2>&1 || [ $? -eq 2 ]; }
}

boot
for _ in 1 2; do
	if broken; then
		log "[boot] QEMU missed a patched instruction; console: $console.int3"
	elif vanished; then
		log "[boot] QEMU crashed or hung while the kernel started; console: $console.int3"
	else
		break
	fi
	# Before the command there is nothing yet that would be done twice.
	! grep -q 'virtme-init: starting script' "$console" || break
	mv -f "$console" "$console.int3"
	boot
done

lost()	# STATUS WHAT
{
	tail -n 25 "$console" >&2 || true
	log "${0##*/}: $2; console: $console"
	exit "$1"
}
if broken; then
	cp "$console" "$console.int3"
	lost 126 "guest broken by QEMU: run it again"
fi
if grep -q 'Kernel panic' "$console" 2>/dev/null; then
	lost 125 "guest died: $(grep -m 1 -o 'Kernel panic.*' "$console" | tr -d '\r')"
fi
! no_ports || lost 125 "guest died: it found no ports to run the command by"
if [ $status -eq 124 ] || [ $status -eq 137 ]; then
	grep -q 'virtme-init: script returned' "$console" 2>/dev/null ||
		lost 124 "time limit of $limit s reached"
fi
grep -q 'virtme-init: script returned' "$console" 2>/dev/null ||
	lost 125 "guest ended without a result"
exit $status
