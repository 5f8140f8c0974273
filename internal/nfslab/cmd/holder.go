//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/recordstore/recordstore/internal/stress"
)

// holder cuts off a client in the middle of a commit, when it has the lock and
// has read the state that it is to change, and lets the other commit. What both
// do is to add one to a number.
func holder(ctx context.Context, st *stage) (verdict, error) {
	c0, c1 := st.lab.Client(0), st.lab.Client(1)
	if _, err := c0.Run(ctx, "recordctl", "put", "--store", st.store(), "n", "0"); err != nil {
		return verdict{}, err
	}
	const others = 5
	// The first run of the command takes longer than the lease. That there are
	// more says that the update noticed.
	away := st.lease + 15*time.Second
	script := fmt.Sprintf(`read n; echo run >>/tmp/%[1]s; [ $(wc -l </tmp/%[1]s) -gt 1 ] || sleep %[2]d; echo $((n + 1))`,
		st.name(), int(away.Seconds())+5)
	answers := make(chan error, 1)
	go func() {
		_, err := c1.Run(ctx, "recordctl", "update", "--store", st.store(), "n", "--", "sh", "-c", script)
		answers <- err
	}()
	if _, err := c1.Run(ctx, "sh", "-c", "until [ -e /tmp/"+st.name()+" ]; do sleep 0.2; done"); err != nil {
		return verdict{}, err
	}
	if err := st.lab.Cut(1); err != nil {
		return verdict{}, err
	}
	cut := time.Now()
	first := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		for i := range others {
			_, err := c0.Run(ctx, "recordctl", "update", "--store", st.store(), "--timeout", "4m", "n", "--", "sh", "-c", "read n; echo $((n + 1))")
			if err != nil {
				failed <- err
				return
			}
			if i == 0 {
				first <- fmt.Sprintf("the other's first commit came %.1f s after the cut, which took %.0f s", time.Since(cut).Seconds(), away.Seconds())
			}
		}
		failed <- nil
	}()
	if err := sleep(ctx, away); err != nil {
		return verdict{}, err
	}
	if err := st.lab.Join(1); err != nil {
		return verdict{}, err
	}
	v := verdict{counted: true, acked: others}
	if err := <-failed; err != nil {
		return v, err
	}
	v.notes = append(v.notes, <-first)
	if err := <-answers; err != nil {
		v.unknown = 1
		v.notes = append(v.notes, "the one that was cut off was told: "+err.Error())
	} else {
		v.acked++
	}
	runs, err := c1.Run(ctx, "sh", "-c", "wc -l </tmp/"+st.name())
	if err != nil {
		return v, err
	}
	v.notes = append(v.notes, fmt.Sprintf("its update function ran %s times", strings.TrimSpace(runs)))
	out, err := c0.Run(ctx, "recordctl", "get", "--store", st.store(), "n")
	if err != nil {
		return v, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return v, err
	}
	v.lost, v.twice = max(0, v.acked-n), max(0, n-v.acked-v.unknown)
	v.ok, v.text = v.lost+v.twice == 0, "ok"
	if !v.ok {
		v.text = fmt.Sprintf("AT FAULT: %d acknowledged, and n=%d", v.acked, n)
	}
	v.notes = append(v.notes, st.kernels(ctx)...)
	return v, nil
}

// speed measures how many commits a second there are, of this store and of the
// usual recipe, which also writes as often but keeps less of what it promises. They
// take turns, twice and the second time in the other order, as machines get slower
// and faster.
func speed(ctx context.Context, st *stage) (verdict, error) {
	v := verdict{counted: true, ok: true, text: "ok"}
	order := []string{stress.ProtocolRename, stress.ProtocolStore, stress.ProtocolStore, stress.ProtocolRename}
	for _, clients := range []int{1, 2} {
		l := load{clients: clients, writers: 1, duration: st.duration, flags: []string{"--threads", "1"}}
		if clients == 2 {
			l.writers = 25
			l.duration *= 4 // or the first commits of all, which come at once, would be most
		}
		rates := make(map[string][]float64)
		for i, p := range order {
			l.protocol = p
			if l.before = ""; p == stress.ProtocolStore {
				l.before = makeStore // that is made once, and not what is measured
			}
			st.part = fmt.Sprintf("-%s-%d-%d", p, clients*l.writers, i+1)
			r, _, err := l.result(ctx, st)
			if err != nil {
				return v, err
			}
			rates[p] = append(rates[p], r.PerSecond)
			v.notes = append(v.notes, fmt.Sprintf("%-6s %2d writers: %5.1f commits/s, p50 %.2f s, worst %.2f s, %d lost",
				p, clients*l.writers, r.PerSecond, r.P50.Seconds(), r.Worst.Seconds(), r.Faults[stress.Lost]))
			v.acked += r.Commits
			if p == stress.ProtocolStore && !r.OK() {
				v.ok, v.text = false, r.Verdict()
			}
		}
		ours, theirs := rates[stress.ProtocolStore], rates[stress.ProtocolRename]
		v.notes = append(v.notes, fmt.Sprintf("with %d, the store makes %.2f times the recipe's commits/s",
			clients*l.writers, (ours[0]+ours[1])/(theirs[0]+theirs[1])))
	}
	return v, nil
}
