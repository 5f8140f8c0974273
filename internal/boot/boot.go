// Package boot tells one run of this machine from the next.
package boot

import (
	"encoding/hex"
	"strings"
	"sync"

	_ "github.com/recordstore/recordstore/internal/platform" // refuses other operating systems
)

// An ID names one run of a machine, from its start to its power loss or
// restart. The zero ID is "not known" and equals nothing, not even itself:
// compare with [ID.Same].
type ID [16]byte

// Known reports whether the ID is not zero.
func (id ID) Known() bool { return id != ID{} }

// Same reports whether both are known and name the same run.
func (id ID) Same(other ID) bool { return id.Known() && id == other }

// Current returns the ID of this machine's present run: the kernel's boot id
// on Linux (/proc/sys/kernel/random/boot_id), the boot session's UUID on
// macOS (sysctl kern.bootsessionuuid). Where the kernel does not say, it is
// the zero ID.
var Current = sync.OnceValue(func() ID { return parse(session()) })

// parse returns the zero ID for what is not a UUID.
func parse(uuid string) (id ID) {
	b, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err == nil && len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}
