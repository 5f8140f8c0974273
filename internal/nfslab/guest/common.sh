# What both kinds of guests do first. The agent runs this with LAB_* from the
# kernel's command line.
set -e
ip link set lo up
ln -sf /proc/self/mounts /etc/mtab
mkdir -p /var /run/rpcbind /run/rpc_pipefs /dev/pts /dev/shm
ln -sfn /run /var/run
mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
mount -t tmpfs tmpfs /dev/shm

# address I gives interface ethI its address and waits for nothing.
address() { ip link set "$1" up; ip addr add "$2/24" dev "$1"; }

# daemon starts one that goes to the background itself; what it says is on the
# console.
daemon() { "$@" || { echo "guest: $* failed"; exit 1; }; }
