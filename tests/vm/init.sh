#!/bin/busybox sh
# PID 1 of the VM: makes the host's root file system its own (what it writes stays in memory), runs /out/command there
# with KVM, and powers off. Options come from the kernel's command line: checkout=DIRECTORY npt=0|1.
# Whatever fails ends PID 1, so the kernel panics and /out/status is missing: a failure for the host.
set -eu
/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
    case $module in
    kvm_amd.ko) insmod "/modules/$module" "npt=${npt:-1}" ;;
    *) insmod "/modules/$module" ;;
    esac
done </modules/order

share=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "ro,$share,cache=loose" host /host
mount -t tmpfs scratch /scratch
mkdir /scratch/changed /scratch/work
mount -t overlay -o lowerdir=/host,upperdir=/scratch/changed,workdir=/scratch/work overlay /root

for place in proc sys dev; do mount --move "/$place" "/root/$place"; done
mkdir -p /root/dev/pts /root/dev/shm /root/out
mount -t devpts devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t tmpfs run /root/run
mkdir /root/run/tmp /root/run/probes
cp -r /modules /root/run/modules
mount -t 9p -o "rw,$share,cache=none" out /root/out
mount -t 9p -o "rw,$share,cache=none" probes /root/run/probes
mount -t tracefs tracefs /root/sys/kernel/tracing
mount -t debugfs debugfs /root/sys/kernel/debug
mount -t bpf bpf /root/sys/fs/bpf
ip link set lo up
hostname vm

echo "init: $(uname -r) is up after $(cut -d' ' -f1 /root/proc/uptime) s"
status=0
chroot /root /usr/bin/env -i -C "$checkout" \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    TMPDIR=/run/tmp CACHE_DIRECTORY=/run/probes PYTHONUNBUFFERED=1 \
    bash /out/command </root/dev/null >/root/out/output 2>&1 || status=$?
dmesg >/root/out/dmesg
echo "$status" >/root/out/status
sync
poweroff -f
