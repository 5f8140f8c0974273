package lockfile

import "testing"

// inSteps makes all waits in this process wait in steps.
func inSteps(t *testing.T) {
	old := waitsInSteps
	waitsInSteps = func(string) bool { return true }
	t.Cleanup(func() { waitsInSteps = old })
}

// Waiting in steps is as good as waiting in the kernel, but for the time that it takes.
func TestInSteps(t *testing.T) {
	inSteps(t)
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
