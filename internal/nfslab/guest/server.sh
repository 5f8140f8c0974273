# The server: it exports /srv/export, and keeps its clients' state beside it, so
# that it survives with the disk. LAB_CLIENTS, LAB_LEASE: seconds.
hostname server
echo '127.0.0.1 localhost' >/etc/hosts
i=0
while [ $i -lt "$LAB_CLIENTS" ]; do
	address eth$i 10.1.$i.1
	echo "10.1.$i.2 client$i" >>/etc/hosts
	i=$((i + 1))
done
echo '10.1.0.1 server' >>/etc/hosts

mkdir -p /srv
mount -t ext4 -o noatime /dev/vda /srv
mkdir -p /srv/export
chmod 777 /srv/export
again=no
[ -d /srv/state ] && again=yes
mkdir -p /srv/state/sm /srv/state/sm.bak /srv/state/nfsdcld /srv/state/v4recovery
rm -rf /var/lib/nfs
mkdir -p /var/lib
ln -sfn /srv/state /var/lib/nfs
touch /srv/state/etab /srv/state/rmtab /srv/state/state
chown -R statd /srv/state/sm /srv/state/sm.bak /srv/state/state

# Only a server that comes back gives its clients time to claim their locks. One
# that nobody has used yet would refuse all locks for nothing.
grace=3
[ $again = no ] || grace=$LAB_LEASE
echo 3 >/proc/sys/fs/nfs/nlm_timeout
echo $grace >/proc/sys/fs/nfs/nlm_grace_period
mount -t nfsd nfsd /proc/fs/nfsd
daemon rpcbind -w
daemon nfsdcld -p /run/rpc_pipefs
echo '/srv/export 10.1.0.0/16(rw,sync,no_subtree_check,no_root_squash,insecure,fsid=1)' >/etc/exports
exportfs -ra
echo "$LAB_LEASE" >/proc/fs/nfsd/nfsv4leasetime
echo "$LAB_LEASE" >/proc/fs/nfsd/nfsv4gracetime
daemon rpc.nfsd -V 3 8
daemon rpc.mountd
daemon rpc.statd # tells the clients that it is back
[ $again = yes ] || echo Y >/proc/fs/nfsd/v4_end_grace 2>/dev/null || true # it may have ended
