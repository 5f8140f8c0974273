package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// The figure is written by hand: the plotting libraries that were tried lay
// out text by fonts of their own, so that labels overlap where a viewer has
// others, and load these fonts in every worker, whose memory is measured.

// The layout, in pixels.
const (
	plotWidth, plotHeight = 900, 760
	linesTop, linesBottom = 50, 400
	linesLeft, linesRight = 80, 730
	barsTop               = 500
	barHeight             = 32
	barThickness          = 20
	barLength             = 230
)

// peerStyles can be told apart by the colour-blind (Okabe and Ito), in the
// order of allPeers. Dashes are for those that promise less.
var peerStyles = []struct{ colour, dash string }{
	{"#d55e00", ""},
	{"#0072b2", ""},
	{"#56b4e9", "6 4"},
	{"#009e73", ""},
	{"#cc79a7", ""},
	{"#e69f00", "6 4"},
	{"#505050", ""},
}

// An svg is a drawing in the making.
type svg struct{ strings.Builder }

func (s *svg) add(format string, args ...any) { fmt.Fprintf(s, format+"\n", args...) }

// text writes text at a point. anchor is start, middle or end.
func (s *svg) text(x, y float64, anchor, style, text string) {
	s.add(`<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`, x, y, anchor, style, html.EscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, style string) {
	s.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`, x1, y1, x2, y2, style)
}

const (
	titleStyle = `font-size="16" font-weight="bold"`
	gridStyle  = `stroke="#dddddd"`
	axisStyle  = `stroke="#333333"`
)

// drawPlots writes, as SVG, what a commit takes by the number of records, and
// how the most writer processes fare.
func (l *lab) drawPlots(w io.Writer) error {
	s := &svg{}
	s.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`, plotWidth, plotHeight)
	s.add(`<rect width="100%%" height="100%%" fill="white"/>`)
	l.drawCommits(s)
	crowd := l.writers[len(l.writers)-1]
	at := book.Place{Experiment: "b", Case: inProcesses(crowd)}
	l.drawBars(s, at.Of("rate"), 0, fmt.Sprintf("%s: commits per second (more is better)", at.Case), book.Number)
	l.drawBars(s, at.Of("p99"), plotWidth/2, fmt.Sprintf("%s: p99 of a commit (less is better)", at.Case), book.Time)
	s.add(`</svg>`)
	_, err := io.WriteString(w, s.String())
	return err
}

// A point is a place in a plot with logarithmic axes: records and seconds.
type point struct{ records, seconds float64 }

// drawCommits draws experiment a: the median by the number of records.
func (l *lab) drawCommits(s *svg) {
	s.text(plotWidth/2, 28, "middle", titleStyle, "One durable commit of one process: median, by records in the store (less is better)")
	lines := map[string][]point{}
	low, high := math.Inf(1), math.Inf(-1)
	for _, p := range l.peers {
		for _, n := range l.sizes {
			at := book.Place{Experiment: "a", Case: inRecords(n), Peer: p.name, Figure: "p50"}
			if v := l.book.Median(at); v > 0 {
				lines[p.name] = append(lines[p.name], point{float64(n), v})
				low, high = min(low, math.Log10(v)), max(high, math.Log10(v))
			}
		}
	}
	if len(lines) == 0 {
		s.text(plotWidth/2, (linesTop+linesBottom)/2, "middle", "", "not measured")
		return
	}
	a := newAxes(float64(l.sizes[0]), float64(l.largest()), low, high)
	a.draw(s)
	row := 0.0
	for i, p := range allPeers {
		if points := lines[p.name]; points != nil {
			style := fmt.Sprintf(`stroke="%s" stroke-width="2" stroke-dasharray="%s"`, peerStyles[i].colour, peerStyles[i].dash)
			a.drawLine(s, points, style, peerStyles[i].colour)
			y := linesTop + 14 + 24*row
			s.line(linesRight+25, y, linesRight+55, y, style)
			s.text(linesRight+63, y+4, "start", "", p.name)
			row++
		}
	}
}

// axes turn decimal logarithms into pixels.
type axes struct{ left, right, low, high float64 }

// newAxes covers sizes, and whole powers of ten of the seconds.
func newAxes(from, to, low, high float64) axes {
	a := axes{math.Log10(from), math.Log10(to), math.Floor(low), math.Ceil(high)}
	if a.left == a.right {
		a.left, a.right = a.left-0.5, a.right+0.5
	}
	if a.low == a.high {
		a.high++
	}
	return a
}

func (a axes) at(p point) (x, y float64) {
	return linesLeft + (math.Log10(p.records)-a.left)/(a.right-a.left)*(linesRight-linesLeft),
		linesBottom - (math.Log10(p.seconds)-a.low)/(a.high-a.low)*(linesBottom-linesTop)
}

// draw draws a grid with a line for each power of ten.
func (a axes) draw(s *svg) {
	for e := a.low; e <= a.high; e++ {
		v := math.Pow(10, e)
		_, y := a.at(point{1, v})
		s.line(linesLeft, y, linesRight, y, gridStyle)
		s.text(linesLeft-8, y+4, "end", "", book.Power(v))
	}
	for e := math.Ceil(a.left); e <= a.right+1e-9; e++ {
		v := math.Pow(10, e)
		x, _ := a.at(point{v, 1})
		s.line(x, linesTop, x, linesBottom, gridStyle)
		s.text(x, linesBottom+20, "middle", "", book.Grouped(int(math.Round(v))))
	}
	s.line(linesLeft, linesTop, linesLeft, linesBottom, axisStyle)
	s.line(linesLeft, linesBottom, linesRight, linesBottom, axisStyle)
	s.text((linesLeft+linesRight)/2, linesBottom+42, "middle", "", "records (both axes are logarithmic)")
}

func (a axes) drawLine(s *svg, points []point, style, colour string) {
	var path strings.Builder
	for _, p := range points {
		x, y := a.at(p)
		fmt.Fprintf(&path, "%.1f,%.1f ", x, y)
		s.add(`<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`, x, y, colour)
	}
	s.add(`<polyline points="%s" fill="none" %s/>`, strings.TrimSpace(path.String()), style)
}

// drawBars draws one figure of all peers as bars that begin at nothing, with
// the figure behind each.
func (l *lab) drawBars(s *svg, at book.Place, left float64, title string, show func(float64) string) {
	most := 0.0
	for _, p := range l.peers {
		at.Peer = p.name
		if v := l.book.Median(at); v > most {
			most = v
		}
	}
	s.text(left+plotWidth/4, barsTop-20, "middle", `font-size="14" font-weight="bold"`, title)
	row := 0.0
	for i, p := range allPeers {
		at.Peer = p.name
		v := l.book.Median(at)
		if math.IsNaN(v) {
			continue
		}
		const names = 110
		y := barsTop + barHeight*row
		s.text(left+names, y+barThickness/2+5, "end", "", p.name)
		length := 0.0
		if most > 0 {
			length = v / most * barLength
		}
		s.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`, left+names+8, y, length, barThickness, peerStyles[i].colour)
		s.text(left+names+14+length, y+barThickness/2+5, "start", "", show(v))
		row++
	}
}
