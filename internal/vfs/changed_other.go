//go:build unix && !(linux && (amd64 || arm64))

package vfs

import "time"

// Changed implements [Dir].
func (d osDir) Changed() (time.Time, error) {
	st, err := d.stat()
	if err != nil {
		return time.Time{}, err
	}
	return changeTime(&st), nil
}
