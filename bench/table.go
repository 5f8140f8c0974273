package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// A table is what an experiment prints.
type table struct {
	title   string
	columns []string // the first are names, the rest figures; see names
	names   int      // columns aligned to the left
	rows    [][]string
	notes   []string
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) writeText(w io.Writer) {
	widths := make([]int, len(t.columns))
	for _, r := range append([][]string{t.columns}, t.rows...) {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	fmt.Fprintf(w, "%s\n\n", t.title)
	for _, r := range append([][]string{t.columns}, t.rows...) {
		var line strings.Builder
		for i, c := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i < t.names {
				line.WriteString(c + pad + "  ")
			} else {
				line.WriteString(pad + c + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
	for _, n := range t.notes {
		fmt.Fprintf(w, "  %s\n", n)
	}
	fmt.Fprintln(w)
}

func (t *table) writeMarkdown(w io.Writer) {
	fmt.Fprintf(w, "## %s\n\n", t.title)
	rules := make([]string, len(t.columns))
	for i := range rules {
		rules[i] = "---"
		if i >= t.names {
			rules[i] = "---:"
		}
	}
	for _, r := range append([][]string{t.columns, rules}, t.rows...) {
		fmt.Fprintf(w, "| %s |\n", strings.Join(r, " | "))
	}
	fmt.Fprintln(w)
	for _, n := range t.notes {
		fmt.Fprintf(w, "%s\n\n", n)
	}
}
