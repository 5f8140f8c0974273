package main

import (
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/recordstore/recordstore/lockfile"
)

// A waitNote shows a person who waits for a lock for whom: one line of the
// terminal, which is written anew when it changes and taken away in the end.
type waitNote struct {
	out   io.Writer
	shown string
}

// wait is for [lockfile.Options.OnWait].
func (n *waitNote) wait(w lockfile.Wait) {
	text := waitText(w)
	if text == n.shown {
		return
	}
	n.shown = text
	fmt.Fprintf(n.out, "\r%s\x1b[K", fit(text, terminalWidth(n.out)-1))
}

// clear takes the line away.
func (n *waitNote) clear() {
	if n.shown != "" {
		fmt.Fprint(n.out, "\r\x1b[K")
		n.shown = ""
	}
}

// waitText is the line.
func waitText(w lockfile.Wait) string {
	text := "waiting for lock " + w.Path
	if who, _ := whoHas(w.Path, w.Holder, w.Known); who != "" {
		text += ", " + who
	}
	switch {
	case w.Ahead == 0:
		text += "; next in the queue"
	case w.Ahead > 0:
		text += fmt.Sprintf("; %d ahead in the queue", w.Ahead)
	}
	return oneLine("recordctl: " + text)
}

// fit cuts the text to a number of characters, unless that is not positive.
func fit(text string, most int) string {
	if most <= 0 || utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most])
}

// terminalWidth returns how many characters a line of the terminal has, and 0 if that
// is not known.
func terminalWidth(f any) int {
	file, ok := f.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
