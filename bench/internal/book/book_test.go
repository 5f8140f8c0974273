package book

import (
	"math"
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	b := New()
	p, q := Place{Peer: "p", Figure: "rate"}, Place{Peer: "q", Figure: "rate"}
	for _, v := range []float64{10, 40, 20} {
		b.Add(p, v)
	}
	for _, v := range []float64{5, 10, 20} {
		b.Add(q, v)
	}
	for name, c := range map[string]struct{ got, want float64 }{
		"median": {b.Median(p), 20},
		"even":   {MedianOf([]float64{4, 1, 3, 2}), 2.5},
		"most":   {b.Most(p), 40},
		"least":  {b.Least(p), 10},
		"sum":    {b.Sum(p), 70},
		"ratio":  {b.Ratio(p, q), 2}, // of 2, 4 and 1; not that of the medians
	} {
		if c.got != c.want {
			t.Errorf("%s: got %v, want %v", name, c.got, c.want)
		}
	}
	if v := b.Median(p.Of("p99")); !math.IsNaN(v) {
		t.Errorf("median of nothing: got %v", v)
	}
}

func TestQuantile(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0.5: 50, 0.99: 99, 1: 100} {
		if got := Quantile(d, q); got != want {
			t.Errorf("%v: got %d, want %d", q, got, want)
		}
	}
}

func TestFormat(t *testing.T) {
	for got, want := range map[string]string{
		Time(1.234e-3): "1.23 ms", Time(math.NaN()): "-", Bytes(32 << 20): "32.0 MiB",
		Number(12345): "12,345", Grouped(1000000): "1,000,000", Times(0.5): "0.50×", Power(1e-4): "100 µs",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
