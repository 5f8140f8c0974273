package store

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// newID returns a new random ID. It asks the kernel itself: crypto/rand does the
// same, and starting a program that contains it takes a tenth longer.
func newID() ID {
	var id ID
	for {
		n, err := unix.Getrandom(id[:], 0) // a few bytes come whole, or not at all
		switch {
		case n == len(id):
			return id
		case err != unix.EINTR:
			panic(fmt.Sprintf("getrandom: %d bytes, %v", n, err)) // as crypto/rand does
		}
	}
}
