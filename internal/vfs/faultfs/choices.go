package faultfs

import "math/rand/v2"

// Choices runs through all ways in which a series of decisions can be taken:
//
//	for c := new(faultfs.Choices); c.More(); {
//		... c.Choose(2) ... c.Choose(3) ...
//	}
//
// Which decisions come may depend on those before. If there are more than
// Limit ways (0: no limit), those beyond are taken at random.
type Choices struct {
	Limit int
	Rand  *rand.Rand // for those beyond Limit, of which there are as many again

	path  []int // the decisions of this way
	sizes []int
	pos   int
	tried int
}

// More prepares for the next way. It reports false if there is none.
func (c *Choices) More() bool {
	c.pos = 0
	c.tried++
	if c.tried == 1 {
		return true
	}
	if c.random() {
		return c.tried <= 2*c.Limit
	}
	for i := len(c.path) - 1; i >= 0; i-- {
		if c.path[i]+1 < c.sizes[i] {
			c.path[i]++
			c.path, c.sizes = c.path[:i+1], c.sizes[:i+1]
			return true
		}
	}
	return false
}

func (c *Choices) random() bool { return c.Limit > 0 && c.tried > c.Limit }

// Choose takes a decision among n.
func (c *Choices) Choose(n int) int {
	if c.random() {
		return c.Rand.IntN(n)
	}
	if c.pos == len(c.path) {
		c.path, c.sizes = append(c.path, 0), append(c.sizes, n)
	}
	c.pos++
	return c.path[c.pos-1]
}
