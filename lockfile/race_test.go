//go:build race

package lockfile

const runtimeRace = true
