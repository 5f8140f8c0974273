//go:build linux

package main

import (
	"context"
	"slices"
	"strings"
	"time"
)

// A mount is how the clients mount the export.
type mount struct{ version, options string }

func (m mount) String() string { return m.version + "/" + m.options }

// flags are the options as mount.nfs wants them.
func (m mount) flags() string {
	if m.options == "default" {
		return ""
	}
	return m.options
}

// A scenario is one thing to try on one kind of mount.
type scenario struct {
	name   string
	what   string
	mount  mount
	coarse bool // the export's times have whole seconds
	spoils bool // the lab cannot be used for another
	run    func(context.Context, *stage) (verdict, error)
}

// A verdict is a scenario's row of the table.
type verdict struct {
	ok        bool
	text      string
	counted   bool // the numbers that follow say something
	acked     int
	perSecond float64
	p50       time.Duration
	worst     time.Duration
	lost      int
	twice     int
	torn      int
	back      int
	other     int
	unknown   int // attempts whose fate their process did not learn
	notes     []string
}

// both is the harness on two clients, each with this many writers and readers.
func both(writers, readers int) load {
	return load{clients: 2, writers: writers, readers: readers, protocol: "store"}
}

// scenarios lists all, in the order in which they are run: those that leave the
// lab as it was come first.
func (s *settings) scenarios() []scenario {
	versions, options := strings.Fields(s.versions), strings.Fields(s.options)
	var all []scenario
	add := func(name, what string, m mount, change func(*scenario), run func(context.Context, *stage) (verdict, error)) {
		sc := scenario{name: name, what: what, mount: m, run: run}
		if change != nil {
			change(&sc)
		}
		all = append(all, sc)
	}
	// each adds one for each of those versions, without special options.
	each := func(name, what string, of []string, change func(*scenario), run func(context.Context, *stage) (verdict, error)) {
		for _, v := range of {
			if slices.Contains(versions, v) {
				add(name+"/"+v, what, mount{v, "default"}, change, run)
			}
		}
	}
	coarse := func(sc *scenario) { sc.coarse = true }
	spoils := func(sc *scenario) { sc.spoils = true }

	for _, v := range versions {
		for _, o := range options {
			l := both(25, 25)
			l.wait, l.duration = time.Second, s.duration
			add("stress/"+v+"/"+o, "25 writers and 25 readers on each client, both forms of the harness", mount{v, o}, nil, l.run)
		}
	}
	records := both(10, 10)
	records.wait, records.records = time.Second, 20
	each("records", "10 and 10 on each client, 20 records per writer", versions, nil, records.run)

	loses := []string{"3", "4.1", "4.2"} // 4.0 opens by name at the server
	naive := both(25, 25)
	naive.protocol, naive.wait, naive.loses = "naive", time.Second, true
	each("naive", "the classic recipe: must be seen to lose", loses, nil, naive.run)
	rename := both(10, 10)
	rename.protocol, rename.wait, rename.records, rename.loses = "rename", time.Second, 20, true
	each("rename", "the usual recipe, right on a local file system: must be seen to lose", loses, nil, rename.run)

	each("speed", "commits per second of 1 and 50 writers, and of the usual recipe", versions, nil, speed)

	// Where the kernel forgets somebody who waits, that is for 30 s.
	crowd := load{clients: 1, writers: 25, duration: s.duration, protocol: "store", longest: 20 * time.Second}
	each("crowd", "25 writers on one client, which the server leaves the lock file to: nobody is forgotten", versions, nil, crowd.run)

	stop := both(10, 10)
	stop.duration = s.lease + 20*time.Second + s.duration
	stop.during = standStill
	each("stop", "a client stands still for longer than the lease", versions, nil, stop.run)
	cut := stop
	cut.during = cutClient
	each("cut", "a client's cable is pulled for longer than the lease", versions, nil, cut.run)
	each("holder", "the holder of the lock is cut off while it commits; another commits; it comes back", versions, nil, holder)
	restart := both(10, 10)
	restart.duration = 2*s.lease + 20*time.Second + s.duration
	restart.during = restartServer
	each("restart", "the server is killed under load and starts again", versions, nil, restart.run)
	kill := both(10, 10)
	kill.duration = s.lease + 20*time.Second + s.duration
	kill.during = killClient
	kill.killed = true
	each("kill", "a client dies while its processes hold the lock; with v3 its kernel locks stay", versions, spoils, kill.run)
	links := kill
	links.before = makeLinks
	each("kill-links", "the same with a LOCK of links, which is broken when it has not been renewed for 15 s", []string{"3", "4.2"}, spoils, links.run)

	whole := both(25, 25)
	whole.wait, whole.duration = time.Second, s.duration
	each("coarse", "the export's times have whole seconds", []string{"3", "4.2"}, coarse, whole.run)
	each("coarse-records", "the same, 10 and 10 on each client, 20 records per writer", []string{"3", "4.2"}, coarse, records.run)

	if slices.Contains(versions, "4.2") {
		short := both(5, 5)
		short.wait, short.duration = 500*time.Millisecond, min(s.duration, 8*time.Second)
		add("short", "a few seconds of load on NFS 4.2, for CI", mount{"4.2", "default"}, nil, short.run)
	}
	return all
}
