package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

// A batch is committed when it has as many lines as --batch says, or this many
// bytes.
const (
	defaultBatch  = 10_000
	maxBatchBytes = 16 << 20
)

// importFlags are the flags of import.
type importFlags struct {
	valueFlags
	batch int
	quiet bool
}

func newImportCmd(a *app) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import [FILE|-]",
		Short: "Store the records of lines of JSON",
		Long: `Import stores the records of FILE, or of standard input, as export writes them or
a person does. A record that is there already is replaced; of lines with the
same key the last counts. Other records stay.

` + linesHelp + ` Without
"codec" it is --codec. Empty lines are passed over. {"key":"a","value":{"x":1}}
is a line. A record whose expiry has passed is stored as one that has expired:
it is not there.

Import commits a batch at a time: --batch lines, 10000 unless it is given, but no
more than some 16 MiB of values. A batch is one update: all of it is seen
and on disk, or nothing of it. --batch 0 makes one update of the whole input,
which is then held in memory.

An error names the line, and says how many records earlier batches have stored;
of the batch with the error nothing is stored. So does a signal, which lets the
batch that is being committed come to its end. To import the same lines again
does no harm.

The store is created if its directory is missing or empty. --timeout is for the
waiting for the lock, once for each batch. On a terminal standard error shows the
progress; at the end it has the number of records. --quiet prints neither. --json
prints the numbers and the last revision on standard output.`,
		Example: `  recordctl import backup.jsonl
  recordctl --store copy import --batch 0 < backup.jsonl
  echo '{"key":"point","value":{"x":1,"y":2}}' | recordctl import
  jq -c '{key: .id, value: .}' people.json | recordctl import --codec json`,
		Args: arguments("[FILE]"),
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			name := "-"
			if len(args) > 0 {
				name = args[0]
			}
			return a.importFile(cmd, name, &f)
		}),
	}
	cmd.Flags().IntVar(&f.batch, "batch", defaultBatch, "commit after `N` lines; 0: all in one update")
	f.addCodec(cmd, "how to store the value of a line that does not say: `msgpack`, json or raw (default msgpack)")
	addQuiet(cmd, &f.quiet)
	return cmd
}

// jsonImport is what import --json prints.
type jsonImport struct {
	Records  int64          `json:"records"`
	Commits  int64          `json:"commits"`
	Revision store.Revision `json:"revision,omitempty"` // of the last commit
}

func (a *app) importFile(cmd *cobra.Command, name string, f *importFlags) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	if f.batch < 0 {
		return usagef("0 makes one update of all lines", "import: --batch %d: a number of lines cannot be negative", f.batch)
	}
	// The store is opened with the first batch, and so not created for lines
	// that are none; what can be known before is.
	dir, err := a.storeDir(cmd)
	if err != nil {
		return err
	}
	if err := checkNotNested(dir, storeLock); err != nil {
		return err
	}
	im := &importer{a: a, cmd: cmd, name: name, limit: f.batch, codec: f.codec}
	if im.codec == "" {
		im.codec = codec.MessagePack.Name()
	}
	in := a.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return fail(inputStatus(err), "", "import: read %q: %w", name, bare(err))
		}
		defer file.Close()
		in = file
	}
	im.progress = a.startProgress("import", sizeOf(in), !f.quiet)
	defer im.progress.stop()
	if err := im.run(in); err != nil {
		return err
	}
	im.progress.stop()
	if a.json {
		if err := a.printJSON(jsonImport{im.records, im.commits, im.revision}); err != nil {
			return err
		}
	}
	if !f.quiet {
		expired := ""
		if im.expired > 0 {
			expired = fmt.Sprintf("; %d of them had expired", im.expired)
		}
		a.note("imported %s in %s%s", count(im.records, "record"), count(im.commits, "commit"), expired)
	}
	return nil
}

// An importer reads batches and commits them. The next is read while one is
// committed.
type importer struct {
	a        *app
	cmd      *cobra.Command
	name     string // of the input
	limit    int    // lines of a batch; 0: no limit
	codec    string // of a line that names none
	progress *progress

	batches chan *importBatch
	quit    chan struct{} // closed when nobody takes batches any more
	readErr error         // why reading has ended, nil at the end of the input; for when batches is closed

	// What has been committed.
	records, expired, commits int64
	line                      int // number of the last line
	revision                  store.Revision
}

// An importBatch is what one update writes. All of it is encoded: the update
// function holds up others, and may run more than once.
type importBatch struct {
	records []lineRecord
	size    int   // bytes of keys and values
	line    int   // number of the last line
	pos     int64 // where the next begins in the input, in bytes
}

// run imports the lines of in.
func (im *importer) run(in io.Reader) (err error) {
	stop, cancel := context.WithCancelCause(background)
	defer cancel(nil)
	im.a.kept = catchSignals(func(err signalError) { cancel(err) })

	im.batches, im.quit = make(chan *importBatch), make(chan struct{})
	defer close(im.quit)
	go im.read(in)

	var s *store.Store
	defer func() {
		if s != nil {
			closeStore(s, &err)
		}
	}()
	open := func() (err error) {
		if s == nil {
			s, err = im.a.openWrite(im.cmd, true, purpose("import", im.name))
		}
		return err
	}
	for {
		select {
		case <-stop.Done():
			return im.failed(context.Cause(stop))
		case b, more := <-im.batches:
			switch {
			case !more && im.readErr != nil:
				return im.failed(im.readErr)
			case !more:
				return open() // an export of nothing makes a store of nothing
			}
			if err := open(); err != nil {
				return err
			}
			if err := im.commit(stop, s, b); err != nil {
				return im.failed(err)
			}
			if stop.Err() != nil {
				return im.failed(context.Cause(stop))
			}
		}
	}
}

// commit writes a batch. When stop ends, so does the waiting for the lock, but
// not the commit once it has begun: what has become of it would not be known.
func (im *importer) commit(stop context.Context, s *store.Store, b *importBatch) error {
	w := im.a.newWait(lockPath(s))
	defer w.stop()
	defer context.AfterFunc(stop, func() { w.end(context.Cause(stop)) })()

	var expired int64
	rev, err := w.update(s, func(tx *store.Tx) error {
		expired = 0
		for i := range b.records {
			r := &b.records[i]
			if err := tx.PutEncoded(r.key, r.codec, r.data, store.WithExpiry(r.expires)); err != nil {
				return fail(exitData, "", "line %d: %w", r.line, err)
			}
			if !r.expires.IsZero() && !r.expires.After(tx.Time()) {
				expired++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	im.a.changed = true
	im.records += int64(len(b.records))
	im.expired += expired
	im.commits++
	im.line, im.revision = b.line, rev
	im.progress.written.Store(im.records)
	im.progress.pos.Store(b.pos)
	return nil
}

// read sends the batches of in, and closes the channel. Nobody waits for it:
// it may be reading from a terminal when a signal comes.
func (im *importer) read(in io.Reader) {
	defer close(im.batches)
	defer func() {
		if p := recover(); p != nil {
			im.readErr = fail(exitSoftware, "", "internal error: %v", p)
		}
	}()
	lines := newLineReader(in)
	for b := new(importBatch); ; {
		text, err := lines.next()
		if err == io.EOF {
			if len(b.records) > 0 {
				im.send(b)
			}
			return
		}
		if err == nil || err == errLongLine {
			b.line++
		}
		if err == nil {
			err = im.add(b, text)
		}
		if err != nil {
			im.readErr = im.lineFailed(b.line, err)
			return
		}
		if im.limit > 0 && (len(b.records) >= im.limit || b.size >= maxBatchBytes) {
			if !im.send(b) {
				return
			}
			b = &importBatch{line: b.line, pos: b.pos, records: make([]lineRecord, 0, len(b.records))}
		}
	}
}

// send reports whether there was somebody to take the batch.
func (im *importer) send(b *importBatch) bool {
	select {
	case im.batches <- b:
		return true
	case <-im.quit:
		return false
	}
}

// add adds a line to a batch.
func (im *importer) add(b *importBatch, text []byte) error {
	b.pos += int64(len(text))
	if len(bytes.Trim(text, " \t\r\n")) == 0 { // the white space of JSON, and no other
		return nil
	}
	r, err := parseLine(text, im.codec)
	if err != nil {
		return err
	}
	r.line = b.line
	b.size += len(r.key) + len(r.data)
	b.records = append(b.records, r)
	im.progress.read.Add(1)
	return nil
}

// lineFailed is the error of a line that cannot be read.
func (im *importer) lineFailed(line int, err error) error {
	var bad *lineError
	switch {
	case errors.As(err, &bad):
		return fail(exitData, bad.hint, "line %d: %w", line, err)
	case err == errLongLine:
		return fail(exitData, "", "line %d: %w", line, err)
	}
	name := im.name
	if name == "-" {
		name = "standard input"
	}
	if line > 0 {
		return fail(inputStatus(err), "", "read %q after line %d: %w", name, line, bare(err))
	}
	return fail(inputStatus(err), "", "read %q: %w", name, bare(err))
}

// failed adds to an error what has been committed all the same.
func (im *importer) failed(err error) error {
	var sig signalError
	f := describe(err)
	// The fate of a batch whose publishing had begun may be unknown.
	open := errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrNotDurable)
	switch {
	case open:
		f.msg = fmt.Sprintf("the batch after line %d: %s", im.line, f.msg)
	case errors.As(err, &sig):
		f.msg = sig.Error()
	}
	switch {
	case im.records > 0:
		f.msg += fmt.Sprintf("; stored before it: lines 1 to %d (%s)", im.line, count(im.records, "record"))
		f.hint = strings.TrimPrefix(f.hint, "nothing was changed; ")
		if f.hint == "" && f.code != exitLocked {
			f.hint = fmt.Sprintf("to go on from there, with the same flags: tail -n +%d FILE | recordctl import", im.line+1)
		}
	case !open:
		f.msg += "; nothing was stored"
	}
	return &failure{code: f.code, msg: "import: " + f.msg, hint: f.hint, err: err}
}
