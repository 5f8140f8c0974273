module github.com/recordstore/recordstore/bench

go 1.26.0

require (
	github.com/PowerDNS/lmdb-go v1.9.3
	github.com/gofrs/flock v0.13.1
	github.com/mattn/go-sqlite3 v1.14.53
	github.com/recordstore/recordstore v0.0.0
	github.com/rogpeppe/go-internal v1.16.0
	go.etcd.io/bbolt v1.5.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/google/renameio/v2 v2.0.2 // indirect
	github.com/vmihailenco/msgpack/v5 v5.4.1 // indirect
	github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
)

replace github.com/recordstore/recordstore => ../
