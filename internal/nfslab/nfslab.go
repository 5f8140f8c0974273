//go:build linux

// Package nfslab is a server and clients of NFS, each a virtual machine with
// Debian's kernel, and what can go wrong between them:
//
//	lab, err := nfslab.Start(ctx, nfslab.Options{})
//	defer lab.Close()
//	err = lab.Mount(ctx, "4.2", "actimeo=60")
//	out, err := lab.Client(0).Run(ctx, "recordctl", "put", "--store", "/mnt/s", "k", "v")
//	err = lab.Cut(1)           // pull a client's cable
//	err = lab.Join(1)
//	lab.Server().Kill()        // as a power failure
//	err = lab.Server().Boot(ctx)
//
// The machines are connected with each other alone, by sockets in the lab's
// directory. Nothing of the host's network is used, and no right but to open
// /dev/kvm, without which all is emulated and some ten times as slow.
//
// The parts:
//
//	packages.go  fetches kernel and tools from Debian's archive, into a cache; archive.go packs them
//	guest.go     a machine: boot, kill, stop, pull its cable; qmp.go talks to qemu
//	remote/      commands in it; agent is the program at the other end, the guests' init
//	guest/       the scripts that make a guest a server or a client
//	cmd          the scenarios, and the command that runs them
package nfslab

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

//go:embed guest/*.sh
var scripts embed.FS

// Options say what lab to start. The zero value is a server and two clients.
type Options struct {
	// Clients is their number. Zero: 2.
	Clients int
	// Lease is how long the server waits for a silent client before it gives its
	// locks to others. Zero: 15 s, where a real server's default is 90 s.
	Lease time.Duration
	// CoarseTime exports a file system whose times have whole seconds.
	CoarseTime bool
	// Accel is how qemu runs a guest: "kvm", "tcg", or empty for KVM if it works.
	Accel string
	// Chosen, if not nil, is told how guests are going to run, "kvm" or "tcg", before
	// any does: when starting them fails, it is known too.
	Chosen func(accel string)
	// Cache is the directory for what is fetched. Empty: the user's cache directory.
	Cache string
	// Dir is where the machines' disks, sockets and consoles are. Empty: a
	// temporary one, which Close removes.
	Dir string
	// Say, if not nil, is told what takes time.
	Say func(format string, args ...any)
}

// A Lab is a running lab. Its methods may be called by several goroutines, but
// not for the same guest at a time. A process that dies leaves no guest behind.
type Lab struct {
	Options
	cache  cache
	accel  string
	temp   bool // Dir is to be removed
	guests []*Guest
}

// Start fetches what is missing, starts the guests, and returns when all are up.
// Where the lab cannot run the error is ErrSkip.
func Start(ctx context.Context, o Options) (lab *Lab, err error) {
	if o.Clients == 0 {
		o.Clients = 2
	}
	if o.Lease == 0 {
		o.Lease = 15 * time.Second
	}
	if o.Chosen == nil {
		o.Chosen = func(string) {}
	}
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	if err := checkHost(ctx); err != nil {
		return nil, err
	}
	l := &Lab{Options: o}
	if l.cache, err = openCache(o.Cache); err != nil {
		return nil, err
	}
	if err := l.cache.fetch(ctx, o.Say); err != nil {
		return nil, err
	}
	if l.accel, err = l.cache.accelerator(ctx, o.Accel); err != nil {
		return nil, err
	}
	o.Chosen(l.accel)
	if l.Dir == "" {
		if l.Dir, err = os.MkdirTemp("", "nfslab-"); err != nil {
			return nil, err
		}
		l.temp = true
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if err := l.image(ctx); err != nil {
		return nil, err
	}
	for n := -1; n < o.Clients; n++ {
		g := l.newGuest(n)
		l.guests = append(l.guests, g)
		if err := l.disk(ctx, g); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	if err := l.each(func(g *Guest) error { return g.Boot(ctx) }); err != nil {
		return nil, err
	}
	o.Say("%d guests are up after %.1f s (%s)", len(l.guests), time.Since(began).Seconds(), l.accel)
	return l, nil
}

// Close ends the guests at once, and removes what is temporary.
func (l *Lab) Close() {
	for _, g := range l.guests {
		g.Kill()
	}
	if l.temp {
		os.RemoveAll(l.Dir)
	}
}

// Server returns the server.
func (l *Lab) Server() *Guest { return l.guests[0] }

// Client returns a client. The first is 0.
func (l *Lab) Client(n int) *Guest { return l.guests[1+n] }

// Clients returns all of them.
func (l *Lab) Clients() []*Guest { return l.guests[1:] }

// Guest returns the guest of the name, "server" or such as "client0", or nil.
func (l *Lab) Guest(name string) *Guest {
	for _, g := range l.guests {
		if g.name == name {
			return g
		}
	}
	return nil
}

// Mount mounts the export on /mnt of every client, instead of what is mounted
// there. Version is 3, 4.0, 4.1 or 4.2; options are those of mount.nfs, or empty.
func (l *Lab) Mount(ctx context.Context, version, options string) error {
	o := "vers=" + version
	if options != "" {
		o += "," + options
	}
	return l.each(func(g *Guest) error {
		if g == l.Server() {
			return nil
		}
		_, err := g.Run(ctx, "sh", "-c", `
			while grep -q ' /mnt nfs' /proc/mounts; do umount -f /mnt || umount -l /mnt; done
			mount.nfs server:/srv/export /mnt -o "$1"`, "sh", o)
		return err
	})
}

// Cut pulls the client's cable.
func (l *Lab) Cut(client int) error { return l.Client(client).link(false) }

// Join plugs it in again.
func (l *Lab) Join(client int) error { return l.Client(client).link(true) }

// each does it for all guests at the same time.
func (l *Lab) each(do func(*Guest) error) error {
	errs := make([]error, len(l.guests))
	var wg sync.WaitGroup
	for i, g := range l.guests {
		wg.Go(func() {
			if err := do(g); err != nil {
				errs[i] = fmt.Errorf("%s: %w", g.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// image writes the initramfs of this lab's guests: what the cache has, then the
// agent, recordctl and the scripts as they are in the tree now.
func (l *Lab) image(ctx context.Context) error {
	base, err := os.ReadFile(l.cache.path("base.cpio"))
	if err != nil {
		return err
	}
	a := newArchive()
	for to, pkg := range map[string]string{"init": "internal/nfslab/agent", "bin/recordctl": "cmd/recordctl"} {
		program := filepath.Join(l.Dir, filepath.Base(to))
		cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "-ldflags=-s -w", modulePath+"/"+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", pkg, err, bytes.TrimSpace(out))
		}
		content, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		a.file(to, 0o755, content)
	}
	for _, role := range []string{"server", "client"} {
		common, err := scripts.ReadFile("guest/common.sh")
		if err != nil {
			return err
		}
		own, err := scripts.ReadFile("guest/" + role + ".sh")
		if err != nil {
			return err
		}
		a.file("etc/"+role+".sh", 0o644, append(common, own...))
	}
	return os.WriteFile(l.initrd(), append(base, a.bytes()...), 0o644)
}

const modulePath = "github.com/recordstore/recordstore"

func (l *Lab) initrd() string { return filepath.Join(l.Dir, "initrd") }

// disk makes a guest's disk: the server's export, or what a client writes through.
func (l *Lab) disk(ctx context.Context, g *Guest) error {
	f, err := os.Create(g.path("disk"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(1 << 30); err != nil { // it takes what is written
		return err
	}
	args := []string{"-q", "-F"}
	switch {
	case g.number >= 0:
		// What is written through need not be written twice.
		args = append(args, "-O", "^has_journal")
	case l.CoarseTime:
		args = append(args, "-I", "128") // no room in an inode for fractions of a second
	}
	mkfs, err := findMkfs()
	if err != nil {
		return err
	}
	_, err = output(ctx, "", mkfs, append(args, g.path("disk"))...)
	return err
}

// accelerator returns the one to use. That /dev/kvm can be opened does not mean
// that guests run: a guest is tried, once, and what came of it is noted.
func (c cache) accelerator(ctx context.Context, asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", nil
	}
	f.Close()
	return c.tried(ctx)
}

// tried returns "kvm" if a guest has run with it since this machine was started.
func (c cache) tried(ctx context.Context) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	note := c.path("kvm-" + strings.TrimSpace(string(boot)))
	if text, err := os.ReadFile(note); err == nil {
		return string(text), nil
	}
	trial, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// It has no root file system, and so panics and ends as soon as it is up.
	_, err = output(trial, "", qemu, "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", c.path("vmlinuz"), "-append", "quiet panic=-1")
	if ctx.Err() != nil {
		return "", ctx.Err() // which says nothing about KVM
	}
	accel := "kvm"
	if err != nil {
		accel = "tcg"
	}
	return accel, os.WriteFile(note, []byte(accel), 0o644)
}
