#!/bin/busybox sh
# PID 1 of the test VM: mounts what a node has, runs the one command, and says how it ended.
#
# ttyS0 is the kernel's console, and this script's own words; ttyS1 carries nothing but the command's output and, at its
# end, the marker by which `cargo xtask vm` knows the exit status. /etc/lattice-vm holds what xtask wrote for this run.

# runc pivots its root, which the kernel refuses on the very first root (it has no parent mount). The same files,
# mounted over themselves, can be pivoted away.
if [ "$1" != mounted ]; then
    mount --bind / /mnt
    cd /mnt && mount --move . / && exec chroot . /init mounted
    echo "init: cannot mount the root over itself"
    exec poweroff -f
fi
cd / && chmod 755 /

export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root LATTICE_VM=1
marker=$(cat /etc/lattice-vm/marker)

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run

# The command writes to a pipe, not to a terminal, and the pipe keeps the marker behind all that it wrote. The serial
# line must pass bytes as they are.
stty -F /dev/ttyS1 raw -echo
mkdir -p /run/lattice-vm
mkfifo -m 600 /run/lattice-vm/output
cat /run/lattice-vm/output >/dev/ttyS1 &
exec 3>/run/lattice-vm/output

# finish KIND VALUE: the last words; xtask then ends the machine.
finish() {
    printf '%s:%s:%s\n' "$marker" "$1" "$2" >&3
    while :; do sleep 1000; done
}

# must WORDS...: a step without which no result of this VM means anything.
must() {
    "$@" || finish failed "init: '$*' failed with status $?"
}

must mount -t securityfs securityfs /sys/kernel/security
must mount -t tracefs tracefs /sys/kernel/tracing
must mount -t debugfs debugfs /sys/kernel/debug
must mount -t bpf -o mode=700 bpffs /sys/fs/bpf
must mount -t cgroup2 cgroup2 /sys/fs/cgroup
must ip link set lo up
must hostname lattice-vm
while read -r module; do
    must insmod "/usr/lib/modules/$module"
done </etc/lattice-vm/modules

# All of BPF LSM's programs load without this and are never called. Who wants just that says so on the kernel's command line.
case ",$(cat /sys/kernel/security/lsm),$(cat /proc/cmdline)" in
    *,bpf,* | *lattice.any_lsm*) ;;
    *) finish failed "/sys/kernel/security/lsm is '$(cat /sys/kernel/security/lsm)' and does not name bpf" ;;
esac

cd /root || finish failed "init: there is no /root"
sh /etc/lattice-vm/command </dev/null >&3 2>&3 3>&-
finish status $?
