package codec

import (
	"errors"
	"fmt"
)

// rawCodec is the type of [Raw].
type rawCodec string

// Name implements [Codec].
func (rawCodec) Name() string { return string(Raw) }

// Marshal implements [Codec].
func (rawCodec) Marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		return append([]byte{}, v...), nil
	case string:
		return []byte(v), nil
	}
	return nil, fmt.Errorf("codec: encode %T as %s: want []byte or string", v, Raw)
}

// Unmarshal implements [Codec].
func (rawCodec) Unmarshal(data []byte, v any) error {
	return decode(Raw.Name(), v, func(fresh any) error {
		switch p := fresh.(type) {
		case *[]byte:
			*p = append([]byte{}, data...)
		case *any:
			*p = append([]byte{}, data...)
		case *string:
			*p = string(data)
		default:
			return errors.New("want *[]byte, *string or *any")
		}
		return nil
	})
}
