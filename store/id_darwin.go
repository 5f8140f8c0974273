package store

import "crypto/rand"

// newID returns a new random ID.
func newID() ID {
	var id ID
	rand.Read(id[:]) // it never fails: it crashes the program instead
	return id
}
