package lockfile

import "testing"

// waitLike makes all waits in this process wait as on a file system that is so slow.
func waitLike(t *testing.T, s slowness) {
	old := slowWaits
	slowWaits = func(string) slowness { return s }
	t.Cleanup(func() { slowWaits = old })
}

// Waiting in steps is as good as waiting in the kernel, but for the time that it takes.
func TestInSteps(t *testing.T) {
	t.Run("always", func(t *testing.T) { testInSteps(t, always) })
	t.Run("whenContended", func(t *testing.T) { testInSteps(t, whenContended) })
}

func testInSteps(t *testing.T, s slowness) {
	waitLike(t, s)
	for _, tt := range generalTests {
		switch tt.name {
		case "ManyWaitsTwoThreads": // nobody is blocked
		case "Fairness", "KillCampaign", "MutualExclusion", "HolderKilled", "WaitersKilled": // processes of their own
		default:
			t.Run(tt.name, tt.test)
		}
	}
	t.Run("FIFO", TestFIFO)
	t.Run("ReaderWaitsBehindWriter", TestReaderWaitsBehindWriter)
	t.Run("Rejoin", TestRejoin)
}
