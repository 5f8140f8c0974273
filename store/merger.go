package store

import "bytes"

// A source yields records in ascending order of their keys, each key once, and
// then nil.
type source interface{ next() (rec, error) }

// recSource is a source of records in memory.
type recSource struct{ recs []rec }

func (s *recSource) next() (rec, error) {
	if len(s.recs) == 0 {
		return nil, nil
	}
	r := s.recs[0]
	s.recs = s.recs[1:]
	return r, nil
}

// A merger is a source that yields what several others do: of each key the
// version of the newest source that has it, tombstones among them.
type merger struct {
	added []source
	heap  []head // the least key first; of equal keys, that of the newest source
	ready bool
}

// A head is a source and the record that it yields next.
type head struct {
	r   rec
	src source
	age int // 0: the newest source
}

func (h *head) less(o *head) bool {
	c := bytes.Compare(h.r.key(), o.r.key())
	return c < 0 || c == 0 && h.age < o.age
}

// newMerger merges sources, the newest first.
func newMerger(sources ...source) *merger { return &merger{added: sources} }

// add adds a source that is older than all others.
func (m *merger) add(s source) { m.added = append(m.added, s) }

func (m *merger) next() (rec, error) {
	if err := m.start(); err != nil {
		return nil, err
	}
	if len(m.heap) == 0 {
		return nil, nil
	}
	r := m.heap[0].r
	for len(m.heap) > 0 && bytes.Equal(m.heap[0].r.key(), r.key()) {
		if err := m.advance(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// start reads the first record of each source, once.
func (m *merger) start() error {
	if m.ready {
		return nil
	}
	m.ready = true
	for age, src := range m.added {
		r, err := src.next()
		if err != nil {
			return err
		}
		if r != nil {
			m.heap = append(m.heap, head{r, src, age})
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.sink(i)
	}
	return nil
}

// advance moves the first source on.
func (m *merger) advance() error {
	r, err := m.heap[0].src.next()
	if err != nil {
		return err
	}
	if m.heap[0].r = r; r == nil {
		last := len(m.heap) - 1
		m.heap[0] = m.heap[last]
		m.heap = m.heap[:last]
	}
	if len(m.heap) > 0 {
		m.sink(0)
	}
	return nil
}

// sink restores the order of the heap below i.
func (m *merger) sink(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(m.heap); child++ {
			if m.heap[child].less(&m.heap[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		m.heap[i], m.heap[least] = m.heap[least], m.heap[i]
		i = least
	}
}
