//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/recordstore/recordstore/internal/nfslab"
)

// shell hands the lines of standard input to a shell in each guest. A line that
// begins with @ names the guest that those after it are for. Others pull a
// cable, or end and start a guest.
func shell(ctx context.Context, lab *nfslab.Lab) error {
	fmt.Println(`Lines are for the shell of one guest: @client0 at first. The export is on /mnt.
  @server, @client1, ...   the following lines are for that guest
  @cut N, @join N          pull and plug the cable of client N
  @kill NAME, @boot NAME   a guest's power
  @stop NAME, @cont NAME   a guest stands still, and goes on
  @console NAME            what its kernel and daemons said`)
	shells := map[string]io.WriteCloser{}
	open := func(g *nfslab.Guest) {
		r, w := io.Pipe()
		shells[g.Name()] = w
		c := g.Command("sh")
		c.Stdin, c.Stdout, c.Stderr = r, os.Stdout, os.Stdout
		go func() {
			err := c.Run(ctx)
			r.CloseWithError(io.ErrClosedPipe)
			if err != nil {
				fmt.Println(err)
			}
		}()
	}
	current := lab.Client(0)
	for _, g := range append(lab.Clients(), lab.Server()) {
		open(g)
	}
	lines := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
		close(lines)
	}()
	for {
		var line string
		var ok bool
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case line, ok = <-lines:
		}
		if !ok {
			return nil
		}
		verb, rest, _ := strings.Cut(strings.TrimPrefix(line, "@"), " ")
		var err error
		switch g := lab.Guest(verb); {
		case !strings.HasPrefix(line, "@"):
			_, err = fmt.Fprintln(shells[current.Name()], line)
		case g != nil:
			current = g
		default:
			err = power(ctx, lab, verb, rest, open)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
}

// power does what a line that begins with @ asks for.
func power(ctx context.Context, lab *nfslab.Lab, verb, name string, open func(*nfslab.Guest)) error {
	if verb == "cut" || verb == "join" {
		var n int
		if _, err := fmt.Sscan(name, &n); err != nil || n < 0 || n >= len(lab.Clients()) {
			return fmt.Errorf("there is no client %q", name)
		}
		if verb == "cut" {
			return lab.Cut(n)
		}
		return lab.Join(n)
	}
	g := lab.Guest(name)
	if g == nil {
		return fmt.Errorf("there is no guest %q", name)
	}
	switch verb {
	case "kill":
		g.Kill()
		return nil
	case "boot":
		err := g.Boot(ctx)
		if err == nil {
			open(g)
		}
		return err
	case "stop":
		return g.Stop()
	case "cont":
		return g.Continue()
	case "console":
		fmt.Println(g.Console())
		return nil
	}
	return fmt.Errorf("unknown: @%s", verb)
}
