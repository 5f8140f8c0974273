package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// writeFile writes a file through do.
func writeFile(path string, do func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	if err := errors.Join(do(w), w.Flush(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// writeMarkdown writes all tables, and what they belong to. Errors are those
// of the buffer that it writes to, which keeps them.
func (l *lab) writeMarkdown(w io.Writer, about about) error {
	fmt.Fprintf(w, "# Measurements on %s\n\n%s\n\n", about.machine, ratiosMatter)
	for _, line := range about.lines {
		fmt.Fprintf(w, "- %s\n", line)
	}
	fmt.Fprintln(w)
	for _, t := range l.tables {
		t.writeMarkdown(w)
	}
	return nil
}
