#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Installs the package of make deb CONFIG=lean in a root of Debian that has Debian's own
# kernel, and boots that from a disk image in QEMU: the new kernel comes up, runs
# redis-server and gives its tables back, reboots, and is removed; then the old one comes up.
# What boots is what a boot loader takes, the newest of /boot. The consoles are in BUILD/log.
set -euo pipefail
options='ACCEL'
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ "$arch" = x86_64 ] || die "for x86_64 only"
dir=$build/check-deb
image=$dir/disk.img
packages=(systemd-sysv udev dbus kmod procps initramfs-tools zstd linux-image-cloud-amd64
	redis-server redis-tools)
accel=${ACCEL:-$(cat "$cache/accel-$(cat /proc/sys/kernel/random/boot_id)" 2>/dev/null || echo tcg)}
version >/dev/null
package=linux-image-$(sed 's/.* //' "$build/src/stock.stamp")-pteref
release=${package#linux-image-}
deb=$(compgen -G "$build/deb/lean/${package}_*.deb") || true

[ -f "$deb" ] || die "no package $package in $build/deb/lean: run make deb CONFIG=lean"
[ "$(id -u)" -eq 0 ] || die "must be root, to install packages in a root"
need mke2fs debugfs e2fsck qemu-system-x86_64 unshare
lock check-deb
need_space "$dir" 4000

# A root with the package, as a disk image.
make_image()
{
	local tar root=$dir/root
	tar=$("$top/scripts/debian-root.sh" "${packages[@]}") || exit 1
	step check-deb "installing $(basename "$deb")"
	rm -rf "$root"
	mkdir -p "$root"
	tar -C "$root" --numeric-owner --xattrs --xattrs-include='*' -xpf "$tar"
	install -D "$top/scripts/check-deb-guest.sh" "$root/usr/local/sbin/check-deb"
	cat >"$root/etc/systemd/system/check-deb.service" <<-END
		[Unit]
		After=multi-user.target redis-server.service
		[Service]
		Type=oneshot
		TimeoutStartSec=infinity
		ExecStart=/usr/local/sbin/check-deb $package
		[Install]
		WantedBy=graphical.target
	END
	chroot "$root" systemctl -q enable check-deb redis-server
	cp "$deb" "$root/root/"
	unshare --mount --pid --fork --mount-proc="$root/proc" \
		chroot "$root" dpkg -i "/root/$(basename "$deb")" </dev/null >"$build/log/check-deb-dpkg.log" 2>&1 ||
		die "dpkg cannot install it: $(tail -n 1 "$build/log/check-deb-dpkg.log")"
	rm -f "$image"
	mke2fs -q -t ext4 -d "$root" "$image" 2G
	rm -rf "$root"
	step_done
}

# of_image FILE: a file of it, if it is there.
of_image()
{
	rm -f "$dir/${1##*/}"
	debugfs -R "dump $1 $dir/${1##*/}" "$image" 2>/dev/null
	[ -s "$dir/${1##*/}" ]
}

# boot NAME: the newest kernel of the disk, until the guest turns itself off.
boot()
{
	local k limit console=$build/log/console-check-deb-$1.log
	limit=$(patience 600)
	k=$(debugfs -R 'ls -p /boot' "$image" 2>/dev/null | sed -n 's,.*/vmlinuz-\([^/]*\)/.*,\1,p' |
		sort -V | tail -n 1)
	if ! of_image "/boot/vmlinuz-$k" || ! of_image "/boot/initrd.img-$k"; then
		die "$1: no kernel on the disk, or no initrd for it"
	fi
	step check-deb "$1: booting $k, $limit s at most"
	timeout -k 5 "$limit" qemu-system-x86_64 -accel "$accel" -cpu max -m 1G -smp 1 -nodefaults \
		-display none -serial "file:$console" -drive "file=$image,format=raw,if=virtio" \
		-device virtio-rng-pci -kernel "$dir/vmlinuz-$k" -initrd "$dir/initrd.img-$k" \
		-append "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off
			no_timer_check rcupdate.rcu_cpu_stall_timeout=300
			systemd.default_timeout_start_sec=$limit systemd.default_device_timeout_sec=$limit" \
		</dev/null >"$build/log/check-deb-qemu.log" 2>&1 ||
		die "$1: time limit reached or QEMU failed; console: $console"
	step_done
	# The journal's file system was left clean: what it says is all of it.
	e2fsck -fp "$image" >/dev/null 2>&1 || [ $? -eq 1 ] || die "$1: the file system is damaged"
	of_image /var/lib/check-deb/log || die "$1: the guest said nothing; console: $console"
	cat "$dir/log"
	! grep '^FAIL' "$dir/log" >/dev/null || die "$1: failed; console: $console"
}

# said LINE: the guest got so far.
said()
{
	grep -qF "$1" "$dir/log" || die "the guest did not say: $1"
}

make_image
boot new
said "ok new: $release"
said "ok again: $release"
said "ok removed"
boot old
said "ok old"
! grep "^ok old: $release" "$dir/log" >/dev/null || die "the old kernel did not come up"
echo "$package: installed, booted, rebooted, removed; the old kernel boots"
