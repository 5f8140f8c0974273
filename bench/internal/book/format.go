package book

import (
	"fmt"
	"math"
	"strconv"
)

// None stands where there is no figure.
const None = "-"

// Time formats seconds, with three Digits that count.
func Time(s float64) string {
	switch {
	case math.IsNaN(s):
		return None
	case s < 1e-6:
		return digits(s*1e9) + " ns"
	case s < 1e-3:
		return digits(s*1e6) + " µs"
	case s < 1:
		return digits(s*1e3) + " ms"
	}
	return digits(s) + " s"
}

// Bytes formats bytes.
func Bytes(n float64) string {
	switch {
	case math.IsNaN(n):
		return None
	case n < 1<<20:
		return digits(n/(1<<10)) + " KiB"
	case n < 1<<30:
		return digits(n/(1<<20)) + " MiB"
	}
	return digits(n/(1<<30)) + " GiB"
}

// Number formats a number with three digits that count.
func Number(v float64) string {
	if math.IsNaN(v) {
		return None
	}
	if v >= 1000 {
		return Grouped(int(math.Round(v)))
	}
	return digits(v)
}

// Times formats a ratio.
func Times(v float64) string {
	if math.IsNaN(v) {
		return None
	}
	return Number(v) + "×"
}

// Power formats seconds that are a power of ten.
func Power(s float64) string {
	switch {
	case s < 0.999e-6:
		return fmt.Sprintf("%.0f ns", s*1e9)
	case s < 0.999e-3:
		return fmt.Sprintf("%.0f µs", s*1e6)
	case s < 0.999:
		return fmt.Sprintf("%.0f ms", s*1e3)
	}
	return fmt.Sprintf("%.0f s", s)
}

// digits formats with three Digits, and all that are before the point.
func digits(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.01:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// Grouped formats a number with commas.
func Grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
