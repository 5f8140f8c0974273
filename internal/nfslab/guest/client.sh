# A client: LAB_NUMBER from 0. Its own disk, /disk, is written through, so that
# what processes have noted there outlives a kill of the guest.
hostname "client$LAB_NUMBER"
address eth0 "10.1.$LAB_NUMBER.2"
printf '127.0.0.1 localhost\n10.1.%s.1 server\n10.1.%s.2 client%s\n' \
	"$LAB_NUMBER" "$LAB_NUMBER" "$LAB_NUMBER" >/etc/hosts

mkdir -p /mnt /disk
mount -t ext4 -o noatime,sync /dev/vda /disk
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak
touch /var/lib/nfs/state
chown -R statd /var/lib/nfs
ln -sfn /run/rpc_pipefs /var/lib/nfs/rpc_pipefs
echo 3 >/proc/sys/fs/nfs/nlm_timeout
daemon rpcbind -w
daemon rpc.statd
