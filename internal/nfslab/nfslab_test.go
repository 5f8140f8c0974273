//go:build linux

package nfslab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestArchive(t *testing.T) {
	a := newArchive()
	a.file("bin/x", 0o755, []byte("hello"))
	a.file("bin/y", 0o644, nil)
	text := a.bytes()
	var names []string
	for len(text) > 0 && text[0] == '0' {
		if string(text[:6]) != "070701" {
			t.Fatalf("no header but %q", text[:6])
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(text[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		size, length := field(6), field(11)
		names = append(names, string(text[110:110+length-1]))
		begin := (110 + length + 3) / 4 * 4
		if names[len(names)-1] == "bin/x" && (string(text[begin:begin+size]) != "hello" || field(1) != 0o100755) {
			t.Errorf("got %q with mode %o", text[begin:begin+size], field(1))
		}
		text = text[begin+(size+3)/4*4:]
	}
	if want := []string{"bin", "bin/x", "bin/y", "TRAILER!!!"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if len(a.out.Bytes())%512 != 0 || len(bytes.Trim(text, "\x00")) > 0 {
		t.Errorf("%d bytes, of which %d after the end", a.out.Len(), len(text))
	}
}

func TestParseDepends(t *testing.T) {
	got := parseDepends(`nfs-common
  Depends: libc6
 |Depends: libsystemd0
  Depends: libelogind0
  PreDepends: init-system-helpers
  Depends: <debconf-2.0>
    debconf
  Suggests: open-iscsi
`)
	if want := []string{"libc6", "libsystemd0", "init-system-helpers"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("guest/*.sh")
	if err != nil || len(paths) != 3 {
		t.Fatalf("%q, %v", paths, err)
	}
	for _, path := range paths {
		if out, err := exec.Command("sh", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", path, err, out)
		}
	}
}

// The guests' cables: what one end calls its own is the far end of the other.
func TestCables(t *testing.T) {
	l := &Lab{Options: Options{Clients: 2, Dir: "d"}, accel: "tcg"}
	cables := func(g *Guest) string {
		var found []string
		for _, a := range g.arguments() {
			if strings.HasPrefix(a, "dgram,") {
				found = append(found, a)
			}
		}
		return strings.Join(found, " ")
	}
	server := cables(l.newGuest(-1))
	want := "dgram,id=cable0,local.type=unix,local.path=d/cable0.server,remote.type=unix,remote.path=d/cable0.client " +
		"dgram,id=cable1,local.type=unix,local.path=d/cable1.server,remote.type=unix,remote.path=d/cable1.client"
	if server != want {
		t.Errorf("server: got %s, want %s", server, want)
	}
	want = "dgram,id=cable1,local.type=unix,local.path=d/cable1.client,remote.type=unix,remote.path=d/cable1.server"
	if client := cables(l.newGuest(1)); client != want {
		t.Errorf("client1: got %s, want %s", client, want)
	}
}

// hostWith makes a machine on which the lab can run: each tool that it looks for is a
// script that does nothing, and qemu does this.
func hostWith(t *testing.T, qemuDoes string) cache {
	bin := t.TempDir()
	for name, text := range map[string]string{"apt-get": "", "apt-cache": "", "dpkg-deb": "", "mkfs.ext4": "", qemu: qemuDoes} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Why a lab that is slow or hangs is no reason to skip it depends on this.
func TestChosenIsToldWhenStartFails(t *testing.T) {
	c := hostWith(t, "")
	had := fmt.Sprintln(kernelPackage, toolPackages, tools, modules) // but none of the files
	if err := os.WriteFile(c.path("done"), []byte(had), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, accel := range []string{"kvm", "tcg"} {
		var told []string
		_, err := Start(t.Context(), Options{
			Accel: accel, Cache: string(c), Dir: t.TempDir(),
			Chosen: func(accel string) { told = append(told, accel) },
		})
		if errors.Is(err, ErrSkip) {
			t.Skip(err) // another processor
		}
		if err == nil || !slices.Equal(told, []string{accel}) {
			t.Errorf("with %s: got %v, and was told %q", accel, err, told)
		}
	}
}

func TestTrialOfKVM(t *testing.T) {
	for _, tt := range []struct{ does, want string }{{"", "kvm"}, {"exit 1", "tcg"}} {
		c := hostWith(t, tt.does)
		for range 2 { // the second time it is noted
			if got, err := c.tried(t.Context()); got != tt.want || err != nil {
				t.Errorf("qemu does %q: got %q, %v, want %q", tt.does, got, err, tt.want)
			}
		}
	}
}

// A trial that is cut short says nothing about KVM, and the next one is to find out.
func TestTrialOfKVMIsCancelled(t *testing.T) {
	c := hostWith(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got, err := c.tried(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %q, %v, want %v", got, err, context.DeadlineExceeded)
	}
	if notes, err := filepath.Glob(c.path("kvm-*")); err != nil || len(notes) > 0 {
		t.Errorf("noted %q, %v", notes, err)
	}
}

func TestMonitor(t *testing.T) {
	l := &Lab{Options: Options{Dir: t.TempDir()}}
	g := l.newGuest(1)
	for _, tt := range []struct{ answer, want string }{
		{`{"return": {}}`, ""},
		{`{"event": "X"}{"return": {}}`, ""},
		{`{"error": {"class": "DeviceNotFound", "desc": "no card1"}}`, "no card1"},
	} {
		listener, err := net.Listen("unix", g.path("qmp"))
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			buf := make([]byte, 1000)
			conn.Write([]byte(`{"QMP": {}}`))
			conn.Read(buf)
			conn.Write([]byte(`{"return": {}}`))
			n, _ := conn.Read(buf)
			asked <- string(buf[:n])
			conn.Write([]byte(tt.answer))
		}()
		err = g.link(false)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.answer, err)
		}
		if a := <-asked; !strings.Contains(a, `"set_link"`) || !strings.Contains(a, `"card1"`) || !strings.Contains(a, "false") {
			t.Errorf("asked %s", a)
		}
		listener.Close()
	}
}
