package main

// The rules of output:
//
//   - Standard output carries data and nothing else. A command that fails
//     prints no data, but for list and export, which print while they read and
//     may have printed whole lines before the error, and verify, doctor and lock
//     status, gc and probe, whose findings are its data.
//   - Standard error carries messages: one line "recordctl: ..." and, where it
//     helps, one line "hint: ..." that says what to type. Keys in messages are
//     quoted, so that no key can forge a line.
//   - A verb that changes the store prints nothing when it is done, but incr
//     (the new value), and with --json what it has written.
//   - export and import say on standard error how many records it were and, on
//     a terminal, how many it are so far; not with --quiet.
//   - get prints a raw value byte for byte. Values of other codecs, and
//     everything under --json, are JSON, one value a line.
//   - Output that cannot be written is an error (74), never ignored; but a
//     reader that goes away (list | head) ends the command silently. Not seen
//     is a standard output that whoever started us had closed: Go opens
//     /dev/null in its place.

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

// report prints what is to be said about err and returns the exit status.
func (a *app) report(err error) int {
	f := describe(err)
	if sig := (signalError{}); f.code == exitSignal+int(syscall.SIGINT) && errors.As(err, &sig) {
		a.interrupted = true
	}
	if f.msg != "" {
		fmt.Fprintf(a.stderr, "recordctl: %s\n", oneLine(f.msg))
	}
	if f.hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", f.hint)
	}
	return f.code
}

// note prints a message that is not an error.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, "recordctl: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// oneLine makes sure that a message, which may quote a file name or another
// program's words, stays one line and moves no cursor.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
}

// outputError is the failure of writing to standard output. A pipe that nobody
// reads is none of these: there Go ends the process with SIGPIPE, as that does C
// programs, even if whoever started us has the signal ignored.
func (a *app) outputError(err error) error {
	hint := ""
	if a.changed {
		hint = "the store was changed all the same; only the report of it is lost"
	}
	return fail(exitIO, hint, "write standard output: %w", bare(err))
}

// bare strips the operation and path from an error that will be told under
// a better name.
func bare(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// jsonRecord is a record as --json prints it, but for the value, which is the last
// field and may be large.
type jsonRecord struct {
	Key       *string        `json:"key,omitempty"`
	KeyBase64 []byte         `json:"key_base64,omitempty"` // in place of Key if that is not UTF-8
	Revision  store.Revision `json:"revision"`
	Time      time.Time      `json:"time"`
	Expires   *time.Time     `json:"expires"` // null: never
	Codec     string         `json:"codec"`
}

// printRecord prints r as one line of JSON. The value goes straight to the output:
// as a json.RawMessage it would be scanned and copied several times.
func (a *app) printRecord(r store.Record) error {
	var value []byte
	if r.Codec != codec.Raw.Name() {
		var err error
		if value, err = codec.ToJSON(r.Codec, r.Value); err != nil {
			return valueError(r.Key, err)
		}
	}
	j := jsonRecord{Revision: r.Revision, Time: r.Time, Codec: r.Codec}
	j.Key, j.KeyBase64 = jsonKey(r.Key)
	if !r.Expires.IsZero() {
		j.Expires = &r.Expires
	}
	var head bytes.Buffer
	if err := writeJSON(&head, j); err != nil {
		return fail(exitSoftware, "", "print as JSON: %w", err)
	}
	head.Truncate(head.Len() - len("}\n"))
	head.WriteString(`,"value":`)
	if err := a.printBytes(head.Bytes()); err != nil {
		return err
	}
	printValue := func() error { return a.printBytes(value) }
	if r.Codec == codec.Raw.Name() {
		printValue = func() error { return a.printRaw(r.Value) }
	}
	if err := printValue(); err != nil {
		return err
	}
	return a.printf("}\n")
}

// rawPiece is how many bytes of a raw value are shown at a time: as JSON they may be
// six times as many.
const rawPiece = 16 << 10

// printRaw prints a raw value as codec.ToJSON shows it.
func (a *app) printRaw(value []byte) error {
	if !utf8.Valid(value) {
		if err := a.printf(`{"base64":"`); err != nil {
			return err
		}
		enc := base64.NewEncoder(base64.StdEncoding, a.out)
		if _, err := enc.Write(value); err != nil {
			return a.outputError(err)
		}
		if err := enc.Close(); err != nil {
			return a.outputError(err)
		}
		return a.printf(`"}`)
	}
	if err := a.printf(`"`); err != nil {
		return err
	}
	for len(value) > 0 {
		n := min(rawPiece, len(value))
		for n < len(value) && !utf8.RuneStart(value[n]) {
			n++
		}
		quoted := quoteJSON(value[:n])
		if err := a.printBytes(quoted[1 : len(quoted)-1]); err != nil {
			return err
		}
		value = value[n:]
	}
	return a.printf(`"`)
}

// jsonKey returns the key for the field "key", or for "key_base64" if it is
// not UTF-8: JSON has no other strings, and would silently change it. Likewise a path.
func jsonKey(key string) (*string, []byte) {
	if utf8.ValidString(key) {
		return &key, nil
	}
	return nil, []byte(key)
}

// jsonWritten is what --json makes the changing verbs print.
type jsonWritten struct {
	Key       *string         `json:"key,omitempty"`
	KeyBase64 []byte          `json:"key_base64,omitempty"`
	Revision  store.Revision  `json:"revision"`
	Value     json.RawMessage `json:"value,omitempty"` // incr only
}

// wrote ends a changing verb.
func (a *app) wrote(key string, rev store.Revision) error {
	a.changed = true
	if !a.json {
		return nil
	}
	w := jsonWritten{Revision: rev}
	w.Key, w.KeyBase64 = jsonKey(key)
	return a.printJSON(w)
}

// printJSON prints v as one line.
func (a *app) printJSON(v any) error {
	if err := writeJSON(a.out, v); err != nil {
		var unsupported *json.UnsupportedValueError
		var marshaler *json.MarshalerError
		if errors.As(err, &unsupported) || errors.As(err, &marshaler) {
			return fail(exitSoftware, "", "print as JSON: %w", err)
		}
		return a.outputError(err)
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func (a *app) printf(format string, args ...any) error {
	if _, err := fmt.Fprintf(a.out, format, args...); err != nil {
		return a.outputError(err)
	}
	return nil
}

// printBytes prints p exactly.
func (a *app) printBytes(p []byte) error {
	if _, err := a.out.Write(p); err != nil {
		return a.outputError(err)
	}
	return nil
}

// displayKey returns key as list prints it: as it is, or as a quoted Go string
// if it could not be told from other output or would move the cursor.
func displayKey(key string) string {
	if strings.HasPrefix(key, `"`) || !utf8.ValidString(key) {
		return strconv.Quote(key)
	}
	for _, r := range key {
		if !strconv.IsPrint(r) {
			return strconv.Quote(key)
		}
	}
	return key
}

// displayTime returns t with seconds, in UTC; "-" if there is none.
func displayTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// isTerminal reports whether f is a terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

func newOutput(w io.Writer) *bufio.Writer { return bufio.NewWriterSize(w, 32<<10) }
