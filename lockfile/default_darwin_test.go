package lockfile

import "testing"

// queueLength is nil where there is no queue to look at.
var queueLength func(testing.TB, string) int
