package main

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/store"
)

// exportFlags are the flags of export.
type exportFlags struct {
	prefix, output     string
	file               string // that output names, by way of links
	meta, fresh, quiet bool
}

func newExportCmd(a *app) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write all records as JSON, one a line",
		Long: `Export writes the records, or those whose keys begin with --prefix, as lines of
JSON, in the order of the keys' bytes. What it writes is one committed state,
however long it takes; records that have expired are not in it.

Import reads the lines. Into an empty store it brings the same records back:
the same keys, codecs, values to the last byte, and expiries. Revisions and times
of the last write are not brought back: they are those of the import. So
two stores with the same records have the same export, unless --meta adds these.

` + linesHelp + `
Export writes "value" where import makes the same bytes of it, else "base64": for
raw bytes that are not UTF-8, and for what JSON cannot express exactly, such as
the bytes and times of msgpack.

--output FILE writes a temporary file beside FILE and renames it when all of it
is on disk: FILE is what it was, or the whole export. If export is killed, the
temporary file stays, as .FILE with a number after it. FILE must be a regular
file, if it is there, and keeps its permissions; it cannot be in the directory of
the store. To standard output export
writes while it reads: if it fails, or the line breaks, what came through are
whole lines, and nothing in them says that some are missing.

Export takes no lock, waits for nobody and changes nothing. For --fresh see get.
On a terminal standard error shows the progress; at the end it has the number of
records. --quiet prints neither.`,
		Example: `  recordctl export --output backup.jsonl
  recordctl export --prefix user/ | jq -r .key
  recordctl export | ssh other recordctl --store copy import`,
		Args:              arguments(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.verb(func(cmd *cobra.Command, _ []string) error {
			return a.export(cmd, &f)
		}),
	}
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "only keys that begin with `PREFIX`")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "write to `FILE`, whole or not at all (default, and -: standard output)")
	cmd.Flags().BoolVar(&f.meta, "meta", false, "add revision and time of the last write, which import passes over")
	addQuiet(cmd, &f.quiet)
	addFresh(cmd, &f.fresh)
	_ = cmd.RegisterFlagCompletionFunc("prefix", a.completeKey)
	return cmd
}

func addQuiet(cmd *cobra.Command, quiet *bool) {
	cmd.Flags().BoolVarP(quiet, "quiet", "q", false, "show no progress and no number of records")
}

func (a *app) export(cmd *cobra.Command, f *exportFlags) (err error) {
	if f.output == "-" || f.output == "" && !cmd.Flags().Changed("output") {
		f.output = ""
	} else if err := a.checkOutput(cmd, f); err != nil {
		return err
	}
	sn, done, err := a.snapshot(cmd, f.fresh)
	if err != nil {
		return err
	}
	defer done(&err)
	// Lines on the same terminal would run into the progress.
	p := a.startProgress("export", 0, !f.quiet && (f.output != "" || !isTerminal(a.stdout)))
	defer p.stop()
	if f.output != "" {
		err = a.exportFile(sn, f, p)
	} else {
		err = exportTo(a.printBytes, sn, f, p)
		if flushErr := a.out.Flush(); err == nil && flushErr != nil {
			err = a.outputError(flushErr)
		}
	}
	if err != nil {
		return err
	}
	p.stop()
	if !f.quiet {
		a.note("exported %s", count(p.written.Load(), "record"))
	}
	return nil
}

// exportTo writes the lines by write, each in one call.
func exportTo(write func([]byte) error, sn *store.Snapshot, f *exportFlags, p *progress) error {
	var line []byte
	for rec, err := range sn.Prefix(f.prefix) {
		if err != nil {
			return err
		}
		if line, err = appendLine(line[:0], rec, f.meta); err != nil {
			return err
		}
		if err := write(line); err != nil {
			return err
		}
		p.written.Add(1)
		if cap(line) > 1<<20 {
			line = nil // that was the exception
		}
	}
	return nil
}

// checkOutput refuses a file that must not be replaced by another, and follows
// links to it.
func (a *app) checkOutput(cmd *cobra.Command, f *exportFlags) error {
	if f.output == "" {
		return usagef("", "export: --output is empty; it names a file")
	}
	info, err := os.Stat(f.output)
	if err == nil && !info.Mode().IsRegular() {
		return usagef("to write into it, redirect standard output: recordctl export > FILE", "export: --output %q is not a regular file", f.output)
	}
	if f.file, err = followLinks(f.output); err != nil {
		return fileError(f.output, err)
	}
	dir, err := a.storeDir(cmd)
	if err != nil {
		return err
	}
	own, ownErr := os.Stat(dir)
	where, err := os.Stat(filepath.Dir(f.file))
	if ownErr == nil && err == nil && os.SameFile(own, where) {
		return usagef("", "export: --output %q is in the store's directory, which is for the store's files", f.output)
	}
	return nil // what else is wrong, creating a file beside it tells
}

// followLinks returns the file that a redirection to name would write or make,
// of which only the directory need exist.
func followLinks(name string) (string, error) {
	for range 40 { // as the kernel does
		dir, base := filepath.Split(name)
		if dir == "" {
			dir = "."
		}
		dir, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return "", err
		}
		name = filepath.Join(dir, base)
		target, err := os.Readlink(name)
		switch {
		case err != nil:
			return name, nil //nolint:nilerr // it is no link, or not there yet
		case filepath.IsAbs(target):
			name = target
		default:
			name = dir + "/" + target // not Join, which takes "link/.." for nothing
		}
	}
	return "", &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
}

// exportFile replaces the file f.output by one with the lines. A signal ends
// the work, and it leaves nothing behind.
func (a *app) exportFile(sn *store.Snapshot, f *exportFlags, p *progress) error {
	caught := make(chan signalError, 1)
	sigs := catchSignals(func(err signalError) { caught <- err })
	defer sigs.stop()

	dir := filepath.Dir(f.file)
	file, err := renameio.NewPendingFile(f.file, renameio.WithTempDir(dir), renameio.WithPermissions(0o666), renameio.WithExistingPermissions())
	if err != nil {
		return fileError(f.output, err)
	}
	defer file.Cleanup() //nolint:errcheck // nothing is to be cleaned up, or there is an error already
	out := bufio.NewWriterSize(file, 256<<10)
	write := func(line []byte) error {
		select {
		case sig := <-caught:
			return fail(exitSignal+int(sig.sig), "", "export: %w; nothing was written", sig)
		default:
		}
		if _, err := out.Write(line); err != nil {
			return fileError(f.output, err)
		}
		return nil
	}
	if err := exportTo(write, sn, f, p); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return fileError(f.output, err)
	}
	if err := file.CloseAtomicallyReplace(); err != nil { // it flushes the file, and no directory
		return fileError(f.output, err)
	}
	if err := syncDir(dir); err != nil {
		return fail(exitIO, "", "export: %q was written, but may not survive a power loss: %w", f.output, bare(err))
	}
	return nil
}

// fileError says that the file was not written, and keeps the status that the
// cause has.
func fileError(name string, err error) error {
	f := describe(err)
	was := "the file is as it was"
	if _, statErr := os.Lstat(name); errors.Is(statErr, fs.ErrNotExist) {
		was = "no file was made"
	}
	return fail(f.code, strings.TrimPrefix(f.hint, "nothing was changed; "), "export: write %q: %w; %s", name, bare(err), was)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		d.Close()
		return err
	}
	return d.Close()
}
