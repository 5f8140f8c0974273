//go:build !race

package lockfile

const runtimeRace = false
