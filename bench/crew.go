package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// crewGrace is how much longer than its jobs' length a crew may take before it
// is killed: to start, to load and to finish what waits.
const crewGrace = 5 * time.Minute

// runOne runs one job in a process of its own.
func runOne(ctx context.Context, j job, before func() error) (result, error) {
	res, err := runCrew(ctx, []job{j}, before)
	if err != nil {
		return result{}, err
	}
	return res[0], nil
}

// runCrew runs each job in a process of its own, all at once: they open what
// they need, wait for each other, and begin together. before, if not nil, is
// called when all are ready. The results are in the order of the jobs.
func runCrew(ctx context.Context, jobs []job, before func() error) ([]result, error) {
	longest := time.Duration(0)
	for _, j := range jobs {
		longest = max(longest, j.Length)
	}
	ctx, cancel := context.WithTimeout(ctx, longest+crewGrace)
	defer cancel()
	waiting, gate, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	members := make([]*member, 0, len(jobs))
	for _, j := range jobs {
		m, err := start(ctx, j, waiting)
		if err != nil {
			waiting.Close()
			cancel()
			return nil, errors.Join(err, finish(members, nil))
		}
		members = append(members, m)
	}
	waiting.Close()
	err = together(members, (*member).awaitReady)
	if err == nil {
		// What earlier jobs have not yet written is not this one's to pay.
		unix.Sync()
		if before != nil {
			err = before()
		}
	}
	if err != nil {
		cancel()
		return nil, errors.Join(err, finish(members, nil))
	}
	gate.Close()
	results := make([]result, len(jobs))
	return results, finish(members, results)
}

// A member is a worker process, as its parent sees it.
type member struct {
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr bytes.Buffer
}

func start(ctx context.Context, j job, gate *os.File) (*member, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	m := &member{cmd: exec.CommandContext(ctx, self)}
	m.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	m.cmd.ExtraFiles = []*os.File{gate}
	m.cmd.Stderr = &m.stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	m.out = bufio.NewReader(out)
	return m, m.cmd.Start()
}

func (m *member) awaitReady() error {
	line, err := m.out.ReadString('\n')
	if err == nil && line != readyLine {
		err = fmt.Errorf("worker said %q", line)
	}
	if err == io.EOF {
		err = errors.New("worker ended before it was ready")
	}
	return err
}

// finish waits for all to end, and reads their results unless results is nil.
func finish(members []*member, results []result) error {
	index := map[*member]int{}
	for i, m := range members {
		index[m] = i
	}
	return together(members, func(m *member) error {
		var err error
		if results != nil {
			err = json.NewDecoder(m.out).Decode(&results[index[m]])
		}
		ended := m.cmd.Wait()
		if ended != nil && results == nil && m.stderr.Len() == 0 {
			return nil // it was killed because of another
		}
		if ended != nil {
			err = fmt.Errorf("worker: %w: %s", ended, bytes.TrimSpace(m.stderr.Bytes()))
		}
		return err
	})
}

// together calls do for all members at once and reports the first error.
func together(members []*member, do func(*member) error) error {
	errs := make([]error, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { errs[i] = do(m) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
