package stress

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/recordstore/recordstore/internal/stress/workers"
)

// A history is the file in which one goroutine of one process notes what it
// does. It is text, one event a line, its first field the kind of event:
//
//	h JSON                               the header: who, and of which run
//	a OP START KIND KEY COUNTER          an attempt begins; COUNTER is "-" if it has none
//	k OP END WAIT REVISION N COUNT       it was acknowledged; N is KEY's count after it, COUNT that of COUNTER
//	x OP END REASON                      it was answered: not done (exists, conflict, late)
//	u OP END TEXT                        it was answered: nobody knows whether it is done
//	s START END REVISION                 a snapshot was taken
//	l END                                taking one took longer than the time-out
//	v KIND TEXT                          a reader saw a violation
//	z END                                the end: the process was not killed
//
// OP counts a goroutine's operations from 1. Times are nanoseconds of the
// machine's monotonic clock, which its processes share. TEXT is a quoted
// string.
//
// Every line is one write(2), and an attempt's line is written before the
// attempt: what a process did before SIGKILL is in the file, and at most the
// last line is cut short. A history without z whose last attempt has no
// answer is that of a killed process, whose last operation may be there.
type history struct {
	f   *os.File
	buf []byte
	op  uint64
}

// header is the first line's content.
type header struct {
	Version  int    `json:"version"`
	Protocol string `json:"protocol"`
	Seed     uint64 `json:"seed"`
	Machines int    `json:"machines"`
	// Fresh says that a snapshot contains all that was acknowledged anywhere
	// before it was taken, as the store promises on a local file system.
	Fresh bool `json:"fresh"`
	author
}

const (
	historyVersion = 1
	historySuffix  = ".history"
)

// createHistory makes the history of an author. There must not be one.
func createHistory(dir string, h header) (*history, error) {
	h.Version = historyVersion
	f, err := os.OpenFile(filepath.Join(dir, h.String()+historySuffix), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o666)
	if err != nil {
		return nil, err
	}
	j, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	out := &history{f: f}
	return out, out.line("h %s", j)
}

func (h *history) line(format string, args ...any) error {
	h.buf = append(fmt.Appendf(h.buf[:0], format, args...), '\n')
	_, err := h.f.Write(h.buf)
	return err
}

// attempt notes that an operation begins, and returns its number.
func (h *history) attempt(kind, key, counter string) (op uint64, err error) {
	if counter == "" {
		counter = "-"
	}
	h.op++
	return h.op, h.line("a %d %d %s %s %s", h.op, workers.Monotonic(), kind, key, counter)
}

func (h *history) ack(wait time.Duration, revision, n, count uint64) error {
	return h.line("k %d %d %d %d %d %d", h.op, workers.Monotonic(), wait, revision, n, count)
}

func (h *history) refused(reason string) error {
	return h.line("x %d %d %s", h.op, workers.Monotonic(), reason)
}

func (h *history) unknown(err error) error {
	return h.line("u %d %d %q", h.op, workers.Monotonic(), err.Error())
}

func (h *history) snapshot(start int64, revision uint64) error {
	return h.line("s %d %d %d", start, workers.Monotonic(), revision)
}

func (h *history) lateSnapshot() error { return h.line("l %d", workers.Monotonic()) }

func (h *history) violation(f Finding) error { return h.line("v %s %q", f.Kind, f.Text) }

// end notes that the process stops of its own accord, and closes the file.
func (h *history) end() error {
	if err := h.line("z %d", workers.Monotonic()); err != nil {
		return err
	}
	return h.f.Close()
}

// The operations' kinds.
const (
	opHello = "hello" // first form: save one record
	opBump  = "bump"  // increment the own record and a shared counter
	opRenew = "renew" // the same, deleting the own record and putting it again
	opFlip  = "flip"  // the same, and put or delete the flip record
	opCAS   = "cas"   // increment a counter by compare-and-swap
	opOnce  = "once"  // create a record if nobody has
)

// The reasons of an operation that was not done.
const (
	reasonExists   = "exists"
	reasonConflict = "conflict"
	reasonLate     = "late"
)
