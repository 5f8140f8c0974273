// Package remote runs commands in a guest of the NFS lab, over a virtio-serial
// port. Both ends are here: Serve is the guest's, Host the other.
//
// They exchange frames, each of which belongs to one command:
//
//	Offset  Size  Field
//	     0     1  kind
//	     1     4  number of the command, given by the host; little-endian
//	     5     4  length of the payload, at most maxPayload; little-endian
//	     9        payload
//
// The port loses and changes nothing. The guest says hello first; before that
// the host sends nothing. A second hello is that of another agent, which knows
// nothing of the commands of the one before.
package remote

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// frameKind is what a frame says.
type frameKind byte

const (
	kindHello  frameKind = 'H' // to the host: the guest is up
	kindRun    frameKind = 'R' // to the guest: start a command; a request as JSON
	kindStdin  frameKind = 'I' // to the guest: the command's input; without payload its end
	kindSignal frameKind = 'K' // to the guest: a signal for the command's processes; one byte
	kindStdout frameKind = 'O' // to the host: output
	kindStderr frameKind = 'E' // to the host: output
	kindExit   frameKind = 'X' // to the host: the command has ended; a response as JSON
)

// maxPayload is the longest payload, in bytes.
const maxPayload = 32 << 10

const headerSize = 9

// A request is what kindRun starts.
type request struct {
	Argv []string
	Env  []string `json:",omitempty"` // in addition to the agent's own
}

// A response is how a command ended.
type response struct {
	Status int    // as a shell has it: 128+N after signal N, 127 if it could not be started
	Error  string `json:",omitempty"` // why it could not be started
}

// A frame is one message.
type frame struct {
	kind    frameKind
	command uint32
	payload []byte
}

// A frameWriter writes frames, of several goroutines.
type frameWriter struct {
	mu  sync.Mutex // protects the rest: frames are not mixed
	w   io.Writer
	buf []byte
}

func (w *frameWriter) write(f frame) error {
	if len(f.payload) > maxPayload {
		return fmt.Errorf("payload of %d bytes; %d at most", len(f.payload), maxPayload)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	b := append(w.buf[:0], byte(f.kind))
	b = binary.LittleEndian.AppendUint32(b, f.command)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.payload)))
	w.buf = append(b, f.payload...)
	_, err := w.w.Write(w.buf)
	return err
}

// A stream is an io.Writer whose bytes become frames.
type stream struct {
	w       *frameWriter
	kind    frameKind
	command uint32
}

func (s stream) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), maxPayload)]
		if err := s.w.write(frame{s.kind, s.command, part}); err != nil {
			return n, err
		}
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}

// newReader returns a reader for readFrame.
func newReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, headerSize+maxPayload) }

// readFrame reads one frame, whose payload is the caller's. After the last whole
// one the error is io.EOF, or io.ErrUnexpectedEOF if another was begun.
func readFrame(r *bufio.Reader) (frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: frameKind(h[0]), command: binary.LittleEndian.Uint32(h[1:])}
	n := binary.LittleEndian.Uint32(h[5:])
	if n > maxPayload {
		return frame{}, fmt.Errorf("frame %q of %d bytes; %d at most", h[0], n, maxPayload)
	}
	f.payload = make([]byte, n)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return frame{}, io.ErrUnexpectedEOF
	}
	return f, nil
}
