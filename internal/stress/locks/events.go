package locks

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The parent notes what it does to its workers and to the file, in eventsName beside
// their logs. It is text, one event a line, its first field the kind of event:
//
//	h JSON          the header: of which run
//	b TIME          the workers begin
//	k TIME PROCESS  about to send SIGKILL
//	s TIME PROCESS  about to send SIGSTOP
//	c TIME PROCESS  SIGCONT was sent
//	t TIME SIZE     the lock file was truncated
//	e TIME          the workers are asked to stop; nobody is killed any more
//
// PROCESS is the author without the thread. The times are those of the logs. Those
// before a signal are read before it is sent: until then the process was alive, or
// running.
type events struct {
	f *os.File
	w *bufio.Writer
}

const eventsName = "events"

// header is the first line's content.
type header struct {
	Version   int    `json:"version"`
	Protocol  string `json:"protocol"`
	Seed      uint64 `json:"seed"`
	Processes int    `json:"processes"`
	Threads   int    `json:"threads"`
	Removers  int    `json:"removers"`
	StallNS   int64  `json:"stall_ns"`
}

func createEvents(dir string, h header) (*events, error) {
	h.Version = 1
	f, err := os.OpenFile(filepath.Join(dir, eventsName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s is of an earlier run: %w", filepath.Join(dir, eventsName), ErrTaken)
	}
	if err != nil {
		return nil, err
	}
	j, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	e := &events{f: f, w: bufio.NewWriter(f)}
	e.line("h %s", j)
	return e, nil
}

// line keeps an error for close.
func (e *events) line(format string, args ...any) { fmt.Fprintf(e.w, format+"\n", args...) }

func (e *events) close() error { return errors.Join(e.w.Flush(), e.f.Close()) }
