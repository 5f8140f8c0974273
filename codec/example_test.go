package codec_test

import (
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/recordstore/recordstore/codec"
)

func Example() {
	type result struct {
		Score float64   `msgpack:"score"`
		Tags  []string  `msgpack:"tags"`
		At    time.Time `msgpack:"at"`
	}
	data, err := codec.MessagePack.Marshal(result{0.5, []string{"best"}, time.Unix(1700000000, 0)})
	if err != nil {
		log.Fatal(err)
	}

	var r result
	if err := codec.MessagePack.Unmarshal(data, &r); err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Score, r.Tags, r.At)

	// Without the type:
	text, err := codec.ToJSON("msgpack", data)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
	// Output:
	// 0.5 [best] 2023-11-14 22:13:20 +0000 UTC
	// {"at":"2023-11-14T22:13:20Z","score":0.5,"tags":["best"]}
}

func ExampleSyntaxError() {
	// An array of 4 billion elements, says its length.
	err := codec.MessagePack.Unmarshal([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, new(any))
	fmt.Println(errors.Is(err, codec.ErrMalformed))
	if serr, ok := errors.AsType[*codec.SyntaxError](err); ok {
		fmt.Println(serr)
	}
	// Output:
	// true
	// malformed msgpack at offset 0: declares 4294967295 elements, but 0 bytes are left
}

func ExampleByName() {
	c, err := codec.ByName("json")
	if err != nil {
		log.Fatal(err)
	}
	data, err := c.Marshal(map[string]any{"b": 1, "a": []int{2, 3}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(data))

	_, err = codec.ByName("gob")
	fmt.Println(err)
	// Output:
	// {"a":[2,3],"b":1}
	// codec: unknown codec "gob" (known: msgpack, json, raw)
}
