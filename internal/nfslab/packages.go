//go:build linux

package nfslab

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// ErrSkip is reported, with the reason, where the lab cannot run.
var ErrSkip = errors.New("the NFS lab cannot run here")

func skip(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrSkip, fmt.Sprintf(format, args...))
}

// What the guests are made of. Libraries follow from what packages depend on,
// modules from what modules depend on.
var (
	kernelPackage = "linux-image-cloud-amd64" // it starts in a quarter of the time of the full one
	toolPackages  = []string{"busybox-static", "nfs-kernel-server", "nfs-common", "rpcbind", "netbase"}
	tools         = []string{
		"usr/sbin/exportfs", //nolint:misspell // it is called so
		"usr/sbin/rpc.mountd", "usr/sbin/rpc.nfsd", "usr/sbin/nfsdcld",
		"usr/sbin/nfsstat", "sbin/mount.nfs", "sbin/rpcbind", "sbin/rpc.statd", "sbin/sm-notify",
	}
	modules = []string{
		"virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "virtio_rng", "crc32c_generic", "ext4",
		"lockd", "nfs", "nfsv3", "nfsv4", "nfs_acl", "nfsd", "nfs_layout_nfsv41_files", "nfs_layout_flexfiles",
	}
)

// A cache is the directory of what is fetched once and used by every lab.
type cache string

func (c cache) path(elem ...string) string {
	return filepath.Join(append([]string{string(c)}, elem...)...)
}

func openCache(dir string) (cache, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(user, "recordstore-nfslab")
	}
	return cache(dir), os.MkdirAll(dir, 0o755)
}

// checkHost returns an ErrSkip if this is no machine to run the lab on. As root
// it installs qemu if it is missing: the only thing that is ever installed.
func checkHost(ctx context.Context) error {
	if runtime.GOARCH != "amd64" {
		return skip("the guests are amd64, this machine is %s", runtime.GOARCH)
	}
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return skip("no %s: it takes its kernel and NFS tools from packages of Debian", tool)
		}
	}
	if _, err := findMkfs(); err != nil {
		return skip("no mkfs.ext4: install e2fsprogs")
	}
	if _, err := exec.LookPath(qemu); err == nil {
		return nil
	}
	if os.Getuid() != 0 {
		return skip("no %s: install qemu-system-x86", qemu)
	}
	err := updated(ctx, func() error {
		_, err := output(ctx, "", "apt-get", "install", "-y", "-q", "--no-install-recommends", "qemu-system-x86")
		return err
	})
	if err != nil {
		return skip("no %s, and installing it failed: %v", qemu, err)
	}
	return nil
}

// updated does it again if it fails and root asks, when apt's lists are new.
func updated(ctx context.Context, do func() error) error {
	err := do()
	if err == nil || os.Getuid() != 0 {
		return err
	}
	if _, updateErr := output(ctx, "", "apt-get", "update", "-q"); updateErr != nil {
		return errors.Join(err, updateErr)
	}
	return do()
}

// findMkfs looks where it is too: not all users have sbin in their PATH.
func findMkfs() (string, error) {
	path, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/mkfs.ext4")
	}
	return path, err
}

// output runs a program of the host and returns what it prints.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}

// fetch makes the guests' kernel and the initramfs of everything but the
// project's own programs, unless the cache has them.
func (c cache) fetch(ctx context.Context, say func(string, ...any)) error {
	done := c.path("done")
	wanted := fmt.Sprintln(kernelPackage, toolPackages, tools, modules)
	if had, err := os.ReadFile(done); err == nil && strings.HasPrefix(string(had), wanted) {
		return nil
	}
	say("fetching packages into %s", c)
	for _, dir := range []string{"debs", "tree"} {
		if err := errors.Join(os.RemoveAll(c.path(dir)), os.MkdirAll(c.path(dir), 0o755)); err != nil {
			return err
		}
	}
	var packages []string
	err := updated(ctx, func() (err error) {
		if packages, err = c.packages(ctx); err != nil {
			return err
		}
		// Without the sandbox's user, who cannot write here when root calls.
		download := append([]string{"download", "-q", "-o", "APT::Sandbox::User=root"}, packages...)
		_, err = output(ctx, c.path("debs"), "apt-get", download...)
		return err
	})
	if err != nil {
		return skip("%v (does apt-get update help?)", err)
	}
	debs, err := filepath.Glob(c.path("debs", "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if _, err := output(ctx, "", "dpkg-deb", "--extract", deb, c.path("tree")); err != nil {
			return err
		}
	}
	if err := c.build(); err != nil {
		return err
	}
	// The packages and what came out of them are no longer needed.
	if err := errors.Join(os.RemoveAll(c.path("debs")), os.RemoveAll(c.path("tree"))); err != nil {
		return err
	}
	return os.WriteFile(done, []byte(wanted+strings.Join(packages, "\n")+"\n"), 0o644)
}

// packages returns the names of the kernel's, the tools' and the libraries'
// packages.
func (c cache) packages(ctx context.Context) ([]string, error) {
	needs, err := depends(ctx, kernelPackage)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(needs, func(p string) bool { return strings.HasPrefix(p, "linux-image-") })
	if i < 0 {
		return nil, fmt.Errorf("%s depends on no kernel", kernelPackage)
	}
	all := slices.Clone(toolPackages)
	for next := all; len(next) > 0; {
		needs, err := depends(ctx, next...)
		if err != nil {
			return nil, err
		}
		next = nil
		for _, p := range needs {
			if strings.HasPrefix(p, "lib") && !strings.HasSuffix(p, "-perl") && !slices.Contains(all, p) {
				all, next = append(all, p), append(next, p)
			}
		}
	}
	return append(all, needs[i]), nil
}

// depends returns what the packages depend on directly.
func depends(ctx context.Context, packages ...string) ([]string, error) {
	out, err := output(ctx, "", "apt-cache", append([]string{"depends", "--important"}, packages...)...)
	if err != nil {
		return nil, err
	}
	return parseDepends(out), nil
}

// parseDepends reads the lines "  Depends: NAME" of apt-cache. Of alternatives,
// which begin with a bar but for the last, it takes the first; virtual packages
// are in angle brackets, and not for us.
func parseDepends(out string) []string {
	var names []string
	alternative := false
	for line := range strings.Lines(out) {
		kind, name, ok := strings.Cut(strings.TrimSpace(line), ": ")
		bar := strings.HasPrefix(kind, "|")
		if kind = strings.TrimPrefix(kind, "|"); !ok || kind != "Depends" && kind != "PreDepends" {
			continue
		}
		if !alternative && !strings.HasPrefix(name, "<") && !slices.Contains(names, name) {
			names = append(names, name)
		}
		alternative = bar
	}
	return names
}

// build makes the cache's kernel and base.cpio from its tree.
func (c cache) build() error {
	tree := c.path("tree")
	kernels, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil {
		return err
	}
	if len(kernels) != 1 {
		return fmt.Errorf("%d kernels in %s, want 1", len(kernels), tree)
	}
	files := map[string]string{"bin/busybox": "bin/busybox"} // path in the guest: path in the tree
	if _, err := os.Stat(filepath.Join(tree, "bin/busybox")); err != nil {
		files["bin/busybox"] = "usr/bin/busybox"
	}
	for _, t := range tools {
		from := t
		if _, err := os.Stat(filepath.Join(tree, t)); err != nil {
			from = filepath.Join("usr", t)
		}
		files[t] = from
	}
	for _, t := range []string{"etc/netconfig", "etc/rpc", "etc/services", "etc/protocols"} {
		files[t] = t
	}
	if err := addLibraries(tree, files); err != nil {
		return err
	}
	load, err := addModules(tree, files)
	if err != nil {
		return err
	}
	a := newArchive()
	for _, to := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(filepath.Join(tree, files[to]))
		if err != nil {
			return err
		}
		a.file(to, 0o755, content)
	}
	for to, content := range map[string]string{
		"etc/modules":       load,
		"etc/passwd":        "root:x:0:0::/:/bin/sh\nstatd:x:100:65534::/var/lib/nfs:/bin/false\n_rpc:x:101:65534::/run/rpcbind:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
		"etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"etc/nsswitch.conf": "hosts: files\n",
		"etc/nfs.conf":      "",
		"etc/fstab":         "",
		"etc/hosts.allow":   "",
		"etc/hosts.deny":    "",
	} {
		a.file(to, 0o644, []byte(content))
	}
	kernel, err := os.ReadFile(kernels[0])
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(c.path("vmlinuz"), kernel, 0o644),
		os.WriteFile(c.path("base.cpio"), a.bytes(), 0o644),
	)
}

// addLibraries adds to files what those in it need of shared libraries.
func addLibraries(tree string, files map[string]string) error {
	const loader = "lib64/ld-linux-x86-64.so.2"
	there := map[string]string{} // by name
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(d.Name(), ".so") {
			there[d.Name()], err = filepath.Rel(tree, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	todo := slices.Collect(maps.Keys(files))
	for len(todo) > 0 {
		path := filepath.Join(tree, files[todo[0]])
		todo = todo[1:]
		f, err := elf.Open(path)
		if err != nil {
			if _, statErr := os.Stat(path); statErr != nil {
				return statErr
			}
			continue // a text, or a module
		}
		needs, err := f.ImportedLibraries()
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, name := range needs {
			to := "lib/" + name
			if name == filepath.Base(loader) {
				to = loader
			}
			if _, ok := files[to]; ok {
				continue
			}
			if there[name] == "" {
				return fmt.Errorf("%s needs %s, which no package has", path, name)
			}
			files[to], todo = there[name], append(todo, to)
		}
	}
	if there[filepath.Base(loader)] == "" {
		return fmt.Errorf("no package has %s", loader)
	}
	files[loader] = there[filepath.Base(loader)]
	return nil
}

// addModules adds the kernel modules to files. It returns their paths in the
// guest, a line each, in the order to load them in.
func addModules(tree string, files map[string]string) (string, error) {
	there := map[string]string{} // path in the tree by name
	built := map[string]bool{}   // those that are parts of the kernel
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok {
			there[strings.ReplaceAll(name, "-", "_")], err = filepath.Rel(tree, path)
		} else if d.Name() == "modules.builtin" {
			var text []byte
			text, err = os.ReadFile(path)
			for line := range strings.Lines(string(text)) {
				name := strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko")
				built[strings.ReplaceAll(name, "-", "_")] = true
			}
		}
		return err
	})
	if err != nil {
		return "", err
	}
	var load strings.Builder
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if done[name] || built[name] {
			return nil
		}
		done[name] = true
		if there[name] == "" {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		needs, err := moduleDepends(filepath.Join(tree, there[name]))
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		to := "lib/modules/" + name + ".ko"
		files[to] = there[name]
		fmt.Fprintf(&load, "/%s\n", to)
		return nil
	}
	for _, m := range modules {
		if err := add(m); err != nil {
			return "", err
		}
	}
	return load.String(), nil
}

// moduleDepends reads what modinfo prints as "depends".
func moduleDepends(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s is not a kernel module", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, field := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}
