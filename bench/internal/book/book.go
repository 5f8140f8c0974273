// Package book keeps the figures of a run, and writes and reads them.
package book

import (
	"encoding/json"
	"io"
	"math"
	"slices"
	"time"
)

// A Place is what a figure belongs to.
type Place struct {
	Experiment string // its letter
	Case       string // "1000 records", "100 processes", ...
	Peer       string
	Figure     string // "p50", "rate", ...
}

// A Book holds all figures of a run: for each place one by round. Times are in
// seconds, memory and disk in bytes, rates per second.
type Book struct {
	order   []Place // in which they came
	figures map[Place][]float64
}

// New returns an empty book.
func New() *Book { return &Book{figures: map[Place][]float64{}} }

// Add adds the figure of the next round.
func (b *Book) Add(p Place, v float64) {
	if _, known := b.figures[p]; !known {
		b.order = append(b.order, p)
	}
	b.figures[p] = append(b.figures[p], v)
}

// AddTime is Add of a time.
func (b *Book) AddTime(p Place, d time.Duration) { b.Add(p, d.Seconds()) }

// Rounds returns the figures of all rounds.
func (b *Book) Rounds(p Place) []float64 { return b.figures[p] }

// Median returns the median of the rounds, NaN if there is no such figure.
func (b *Book) Median(p Place) float64 { return MedianOf(b.figures[p]) }

// Most returns the greatest figure of all rounds, NaN if there is none.
func (b *Book) Most(p Place) float64 {
	if f := b.figures[p]; len(f) > 0 {
		return slices.Max(f)
	}
	return math.NaN()
}

// Least returns the smallest figure of all rounds, NaN if there is none.
func (b *Book) Least(p Place) float64 {
	if f := b.figures[p]; len(f) > 0 {
		return slices.Min(f)
	}
	return math.NaN()
}

// Sum returns the sum of all rounds, NaN if there is no such figure.
func (b *Book) Sum(p Place) float64 {
	if len(b.figures[p]) == 0 {
		return math.NaN()
	}
	s := 0.0
	for _, v := range b.figures[p] {
		s += v
	}
	return s
}

// Ratio returns the median of the ratios by round: the machine may be slower
// in one round than in the next, but is the same for both peers of a round.
func (b *Book) Ratio(p, q Place) float64 {
	f, g := b.figures[p], b.figures[q]
	var ratios []float64
	for i := range min(len(f), len(g)) {
		ratios = append(ratios, f[i]/g[i])
	}
	return MedianOf(ratios)
}

// MedianOf returns the median, NaN if there are no values.
func MedianOf(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(n-1)/2] + s[n/2]) / 2
}

// Quantile returns the smallest duration that at least the part q of all are
// not above. sorted must be.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// Of returns the same place for another figure.
func (p Place) Of(figure string) Place {
	p.Figure = figure
	return p
}

// WriteJSON writes all figures, an object a line.
func (b *Book) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	for _, p := range b.order {
		line := struct {
			Place
			Rounds []float64
		}{p, b.figures[p]}
		if err := e.Encode(line); err != nil {
			return err
		}
	}
	return nil
}
