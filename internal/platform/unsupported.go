//go:build !linux && !darwin

package platform

// The identifier below does not exist. It is there to be read in the
// compiler's message.
const _ = recordstore_runs_on_Linux_and_macOS_only__elsewhere_its_locks_and_its_publishing_are_unproved
