package stress

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// An account is a history read back.
type account struct {
	header
	path  string
	ops   []op // ops[i] is operation i+1
	reads []reading
	late  int // snapshots that took longer than the time-out
	seen  []Finding
	ended bool
	end   int64 // time of the last event
}

// An op is one operation as its history tells it.
type op struct {
	by       *account
	number   uint64
	kind     string
	key      string
	counter  string // empty if it has none
	start    int64
	end      int64 // of the answer, if there is one
	wait     time.Duration
	fate     fate
	revision uint64 // the rest is of acknowledged ones
	n        uint64
	count    uint64
	text     string // reason or error
}

func (o *op) String() string {
	s := fmt.Sprintf("operation %d of %s (%s %s", o.number, o.by, o.kind, o.key)
	if o.fate == fateDone {
		s += fmt.Sprintf(", acknowledged as revision %d with n=%d", o.revision, o.n)
	}
	return s + ")"
}

// fate is what became of an operation, as far as its process was told.
type fate int

const (
	fateUnknown fate = iota // killed before the answer, or answered so
	fateDone                // acknowledged
	fateNot                 // answered: not done
)

type reading struct {
	start, end int64
	revision   uint64
}

// ErrNoHistory is reported when a judge misses histories: all, or those of a
// machine that took part.
var ErrNoHistory = errors.New("histories are missing")

// readHistories reads all histories in dir and the directories below it, so
// that those of several machines can be brought together as they are.
func readHistories(dir string) ([]*account, error) {
	var all []*account
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, historySuffix) {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		a, err := readHistory(path, f)
		if err != nil || a == nil {
			return err
		}
		all = append(all, a)
		return nil
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s: %w", dir, ErrNoHistory)
	}
	return all, err
}

// readHistory reads one. It returns nil without an error for one that was cut
// short before its header was whole: its process had not begun to work.
func readHistory(path string, r io.Reader) (*account, error) {
	a := &account{path: path}
	names := map[string]string{} // one copy of each key in memory, not one an operation
	br := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		if err == io.EOF {
			// What follows the last newline was cut short by a kill. An attempt
			// that was not whole had not begun; an answer that was not whole
			// leaves its operation open.
			if a.ended && len(line) > 0 {
				return nil, fmt.Errorf("%s:%d: goes on after its end", path, n)
			}
			break
		}
		if err == nil {
			err = a.parse(line[:len(line)-1], n == 1, names)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	if a.Version == 0 {
		return nil, nil
	}
	if a.ended && len(a.ops) > 0 && a.ops[len(a.ops)-1].end == 0 {
		return nil, fmt.Errorf("%s: ends with an attempt that has no answer", path)
	}
	return a, nil
}

var errLine = errors.New("not a line of a history")

// parse takes in one line, without its newline.
func (a *account) parse(line []byte, first bool, names map[string]string) error {
	if a.ended || first != bytes.HasPrefix(line, []byte("h ")) {
		return errLine
	}
	kind, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(kind) {
	case "h":
		if err := json.Unmarshal(rest, &a.header); err != nil {
			return err
		}
		if a.Version != historyVersion {
			return fmt.Errorf("history of version %d; this program reads %d", a.Version, historyVersion)
		}
		if a.Form == "" || a.Role == "" {
			return errLine
		}
		return nil
	case "a":
		return a.parseAttempt(rest, names)
	case "k", "x", "u":
		return a.parseAnswer(kind[0], rest)
	case "s":
		var r reading
		if err := scan(string(rest), &r.start, &r.end, &r.revision); err != nil {
			return err
		}
		a.reads, a.end = append(a.reads, r), r.end
		return nil
	case "l":
		a.late++
		return scan(string(rest), &a.end)
	case "v":
		k, q, _ := strings.Cut(string(rest), " ")
		text, err := strconv.Unquote(q)
		if err != nil {
			return err
		}
		a.seen = append(a.seen, Finding{Kind: Kind(k), Text: text + " (seen by " + a.String() + ")"})
		return nil
	case "z":
		a.ended = true
		return scan(string(rest), &a.end)
	}
	return errLine
}

func (a *account) parseAttempt(rest []byte, names map[string]string) error {
	f := strings.Fields(string(rest))
	if len(f) != 5 {
		return errLine
	}
	o := op{by: a}
	if err := scan(f[0]+" "+f[1], &o.number, &o.start); err != nil {
		return err
	}
	if o.number != uint64(len(a.ops))+1 {
		return fmt.Errorf("attempt %d follows attempt %d", o.number, len(a.ops))
	}
	if n := len(a.ops); n > 0 && a.ops[n-1].end == 0 {
		return fmt.Errorf("attempt %d begins before the answer to the one before", o.number)
	}
	for i, p := range []*string{&o.kind, &o.key, &o.counter} {
		name, ok := names[f[2+i]]
		if !ok {
			name = f[2+i]
			names[name] = name
		}
		*p = name
	}
	if o.counter == "-" {
		o.counter = ""
	}
	a.ops, a.end = append(a.ops, o), o.start
	return nil
}

func (a *account) parseAnswer(kind byte, rest []byte) error {
	if len(a.ops) == 0 {
		return errors.New("an answer before the first attempt")
	}
	o := &a.ops[len(a.ops)-1]
	if o.end != 0 {
		return fmt.Errorf("a second answer to attempt %d", o.number)
	}
	var number uint64
	var err error
	switch kind {
	case 'k':
		o.fate = fateDone
		err = scan(string(rest), &number, &o.end, (*int64)(&o.wait), &o.revision, &o.n, &o.count)
	case 'x', 'u':
		f := strings.SplitN(string(rest), " ", 3)
		if len(f) != 3 {
			return errLine
		}
		if o.text = f[2]; kind == 'x' {
			o.fate = fateNot
		} else if o.text, err = strconv.Unquote(f[2]); err != nil {
			return err
		}
		err = scan(f[0]+" "+f[1], &number, &o.end)
	}
	if err == nil && number != o.number {
		err = fmt.Errorf("answer to attempt %d follows attempt %d", number, o.number)
	}
	a.end = o.end
	return err
}

// scan parses s as numbers between single spaces, as many as there are
// pointers to int64 or uint64 in to.
func scan(s string, to ...any) error {
	f := strings.Split(s, " ")
	if len(f) != len(to) {
		return errLine
	}
	for i, p := range to {
		var err error
		switch p := p.(type) {
		case *int64:
			*p, err = strconv.ParseInt(f[i], 10, 64)
		case *uint64:
			*p, err = strconv.ParseUint(f[i], 10, 64)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
