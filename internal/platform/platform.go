// Package platform refuses, when it is compiled, the operating systems that
// the store cannot run on. The packages store and lockfile import it for
// that effect alone.
//
// What they need is an advisory file lock that the kernel frees when its
// holder dies, a way to publish a file under a name only if nobody has that
// name, and to know which file systems are local. Linux and macOS have all
// three. Windows has locks that also keep readers out of a file, and cannot
// rename over or remove a file that is open.
package platform
