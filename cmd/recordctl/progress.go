package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// A progress shows on a terminal how far a verb is. All it costs the work is a
// counter.
type progress struct {
	out   io.Writer // nil: shows nothing
	verb  string
	begun time.Time

	read    atomic.Int64 // records; import only
	written atomic.Int64 // records
	pos     atomic.Int64 // in the input, in bytes
	size    int64        // of the input; 0: not known

	quit, ended chan struct{}
}

// progressInterval is the time between two updates of the line.
const progressInterval = 250 * time.Millisecond

// startProgress shows the progress on standard error, if that is a terminal and
// shown does not forbid it. The caller must call stop.
func (a *app) startProgress(verb string, size int64, shown bool) *progress {
	p := &progress{verb: verb, begun: time.Now(), size: size}
	if !shown || !isTerminal(a.stderr) {
		return p
	}
	p.out, p.quit, p.ended = a.stderr, make(chan struct{}), make(chan struct{})
	go p.run()
	return p
}

func (p *progress) run() {
	defer close(p.ended)
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	shown := false
	for {
		select {
		case now := <-tick.C:
			fmt.Fprintf(p.out, "\r%s\x1b[K", p.line(now.Sub(p.begun)))
			shown = true
		case <-p.quit:
			if shown {
				fmt.Fprint(p.out, "\r\x1b[K")
			}
			return
		}
	}
}

// line returns what is to be shown. A record that is read is not yet written,
// and the rate is that of the slower.
func (p *progress) line(passed time.Duration) string {
	read, written := p.read.Load(), p.written.Load()
	text := p.verb + ": "
	if read > 0 {
		text += fmt.Sprintf("%d read, ", read)
	}
	text += fmt.Sprintf("%d written", written)
	if p.size > 0 {
		text += fmt.Sprintf(", %d%%", min(100*p.pos.Load()/p.size, 100))
	}
	return text + fmt.Sprintf(", %.0f/s", float64(written)/passed.Seconds())
}

// stop takes the line away. A second stop does nothing.
func (p *progress) stop() {
	if p.out == nil {
		return
	}
	close(p.quit)
	<-p.ended
	p.out = nil
}

// sizeOf returns the size of r, 0 if that is not a file.
func sizeOf(r io.Reader) int64 {
	f, ok := r.(*os.File)
	if !ok {
		return 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

// count returns a number of things in words.
func count(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
