package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// workerEnv makes a process a worker. The job is in it, as JSON.
const workerEnv = "RECORDSTORE_BENCH_WORKER"

// gateFD is the read end of a pipe that all workers of a crew share. It ends
// when the parent lets them go.
const gateFD = 3

// readyLine is what a worker prints when it has everything open.
const readyLine = "ready\n"

// maybeWorker does a worker's job and exits, if this process is one.
func maybeWorker() {
	text, ok := os.LookupEnv(workerEnv)
	if !ok {
		return
	}
	if err := work(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func work(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	w := &worker{job: j, rnd: rand.New(rand.NewPCG(j.Seed, 1))}
	if j.Peer != "" {
		p, err := peerNamed(j.Peer)
		if err != nil {
			return err
		}
		w.peer = p
	}
	if j.Lock != "" {
		p, err := lockPeerNamed(j.Lock)
		if err != nil {
			return err
		}
		w.lock = p
	}
	res, err := w.run()
	if err != nil {
		return fmt.Errorf("%s, %s: %w", j.Peer+j.Lock, j.Kind, err)
	}
	if res.Memory, err = peakMemory(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(res)
}

type worker struct {
	job
	peer *peer
	lock *lockPeer
	rnd  *rand.Rand
	db   db
}

// ready tells the parent that this worker is, and waits for the gate.
func (w *worker) ready() error {
	if _, err := os.Stdout.WriteString(readyLine); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.NewFile(gateFD, "gate"))
	return err
}

func (w *worker) run() (res result, err error) {
	switch w.Kind {
	case kindIdle:
		return res, w.ready()
	case kindCall:
		return w.call()
	case kindFirst:
		return w.first()
	case kindHold:
		return w.hold()
	case kindFree:
		return w.takeFree()
	}
	if w.db, err = w.peer.openFor(w.Dir, w.opening); err != nil {
		return res, err
	}
	switch w.Kind {
	case kindLoad:
		res, err = w.load()
	case kindUpdate:
		res, err = w.update()
	case kindSteady:
		res, err = w.steady()
	case kindRead:
		res, err = w.read()
	case kindScan:
		res, err = w.scan()
	case kindVerify:
		res, err = w.verify()
	default:
		err = fmt.Errorf("unknown kind of job")
	}
	return res, errors.Join(err, w.db.Close())
}

// gaveUp tells the error of a peer that waited in vain.
func (w *worker) gaveUp(err error) bool { return w.peer.busy != nil && w.peer.busy(err) }

// peakMemory returns the most memory that this process has had resident,
// mapped files included. The kernel's rusage is of no use for it: it begins
// with the memory of the process that started this one.
func peakMemory() (int64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}
