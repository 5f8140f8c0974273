//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"
)

// A watch looks at a store from the server, where nothing is cached: each commit
// is a new manifest.
type watch struct {
	mu     sync.Mutex // protects what follows
	newest uint64     // number of the newest manifest
	first  uint64     // the first that was seen
	at     time.Time  // when newest was first seen
	pause  time.Duration
}

// watchStore watches the stage's store until ctx is done.
func watchStore(ctx context.Context, st *stage) *watch {
	w := &watch{at: time.Now()}
	go func() {
		for ctx.Err() == nil { // the server may be started again
			c := st.lab.Server().Command("sh", "-c", fmt.Sprintf(
				"while :; do ls /srv/export/%s 2>/dev/null | grep '^manifest' | tail -n 1; sleep 0.5; done", st.name()))
			c.Stdout = w
			_ = c.Run(ctx)
			time.Sleep(time.Second)
		}
	}()
	return w
}

// Write takes in the names of the newest manifests.
func (w *watch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range bytes.Fields(p) {
		var n uint64
		if _, err := fmt.Sscanf(string(line), "manifest.%016d", &n); err != nil {
			continue // cut in two by the frames
		}
		if w.first == 0 {
			w.first = n
		}
		if n > w.newest {
			w.pause = max(w.pause, time.Since(w.at))
			w.newest, w.at = n, time.Now()
		}
	}
	return len(p), nil
}

// commits is how many there have been.
func (w *watch) commits() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.newest - w.first
}

// reset begins to measure the pauses.
func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pause, w.at = 0, time.Now()
}

// longest returns the longest time without a commit since reset.
func (w *watch) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(w.pause, time.Since(w.at))
}

// until waits for this many commits.
func (w *watch) until(ctx context.Context, commits uint64) error {
	for w.commits() < commits {
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// away lets the time pass in which a client is away, and some more.
func away(ctx context.Context, st *stage, w *watch, what string, back func() error) ([]string, error) {
	w.reset()
	before := w.commits()
	if err := sleep(ctx, st.lease+15*time.Second); err != nil {
		return nil, err
	}
	meanwhile := w.commits() - before
	pause := w.longest()
	if err := back(); err != nil {
		return nil, err
	}
	notes := []string{fmt.Sprintf("%s for %.0f s: %d commits meanwhile, the longest pause was %.1f s",
		what, (st.lease + 15*time.Second).Seconds(), meanwhile, pause.Seconds())}
	return notes, nil
}

func standStill(ctx context.Context, st *stage, w *watch) ([]string, error) {
	if err := st.lab.Client(1).Stop(); err != nil {
		return nil, err
	}
	return away(ctx, st, w, "client1 stood still", st.lab.Client(1).Continue)
}

func cutClient(ctx context.Context, st *stage, w *watch) ([]string, error) {
	if err := st.lab.Cut(1); err != nil {
		return nil, err
	}
	return away(ctx, st, w, "client1 was cut off", func() error { return st.lab.Join(1) })
}

func killClient(ctx context.Context, st *stage, w *watch) ([]string, error) {
	st.lab.Client(1).Kill()
	what := "client1 was dead"
	if st.scenario.mount.version == "3" {
		what += " (with version 3 its kernel locks stay: others wait)"
	}
	return away(ctx, st, w, what, func() error { return nil })
}

func restartServer(ctx context.Context, st *stage, w *watch) ([]string, error) {
	if err := sleep(ctx, 3*time.Second); err != nil {
		return nil, err
	}
	w.reset()
	before := w.commits()
	st.lab.Server().Kill()
	began := time.Now()
	if err := st.lab.Server().Boot(ctx); err != nil {
		return nil, err
	}
	booted := time.Since(began)
	after := w.commits()
	if err := w.until(ctx, after+1); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("the server was back after %.1f s; %d commits before, the first after that came after %.1f s",
		booted.Seconds(), before, time.Since(began).Seconds())}, nil
}
