package boot

import "testing"

func TestCurrent(t *testing.T) {
	if id := Current(); !id.Known() || !id.Same(parse(session())) {
		t.Errorf("this run is %x", id)
	}
}

func TestParse(t *testing.T) {
	want := ID{0: 0x01, 1: 0x23, 15: 0xef}
	if id := parse("01230000-0000-0000-0000-0000000000ef"); id != want {
		t.Errorf("got %x, want %x", id, want)
	}
	for _, s := range []string{"", "01230000", "not a UUID, though of 36 characters.", "01230000-0000-0000-0000-0000000000ef00"} {
		if id := parse(s); id.Known() || id.Same(id) {
			t.Errorf("%q: %x", s, id)
		}
	}
}
