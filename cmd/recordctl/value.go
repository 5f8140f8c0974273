package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

// valueHelp explains VALUE in the help of the verbs that take one.
const valueHelp = `VALUE is stored as it is, without a newline. A lone - reads standard input, and
@FILE reads a file, byte for byte. With --literal, - and @ have no meaning.
A value may have up to 64 MiB.`

// longestTTL is a hundred years. Times that a store can keep end in 2262.
const longestTTL = 100 * 365 * 24 * time.Hour

// valueFlags are the flags of the verbs that take or make a value.
type valueFlags struct {
	codec   string
	ttl     time.Duration
	literal bool
}

func (f *valueFlags) addCodec(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.codec, "codec", "", usage)
	_ = cmd.RegisterFlagCompletionFunc("codec", cobra.FixedCompletions(codec.Names(), cobra.ShellCompDirectiveNoFileComp))
}

func (f *valueFlags) addTTL(cmd *cobra.Command, usage string) {
	cmd.Flags().DurationVar(&f.ttl, "ttl", 0, usage)
}

func (f *valueFlags) addLiteral(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.literal, "literal", false, "take a value of - or @FILE as it is")
}

// check refuses what is wrong before a store is opened, let alone created.
func (f *valueFlags) check() error {
	if f.codec != "" {
		if _, err := codec.ByName(f.codec); err != nil {
			return usagef("the codecs are "+strings.Join(codec.Names(), ", "), "--codec: unknown codec %q", f.codec)
		}
	}
	if f.ttl > longestTTL {
		return usagef("a record without --ttl never expires", "--ttl %s: more than %s is too long", f.ttl, longestTTL)
	}
	if f.ttl < 0 {
		return usagef("0 means that the record does not expire", "--ttl %s: a time cannot be negative", f.ttl)
	}
	return nil
}

// putOptions returns the options of a write that replaces old, whose expiry it
// keeps unless --ttl is given. For a write that does not keep it, old is zero.
func (f *valueFlags) putOptions(cmd *cobra.Command, old store.Record) []store.PutOption {
	switch {
	case cmd.Flags().Changed("ttl") && f.ttl > 0:
		return []store.PutOption{store.WithTTL(f.ttl)}
	case !cmd.Flags().Changed("ttl") && !old.Expires.IsZero():
		return []store.PutOption{store.WithExpiry(old.Expires)}
	}
	return nil
}

// readValue returns the bytes that the argument names.
func (a *app) readValue(name, arg string, literal bool) ([]byte, error) {
	switch {
	case literal:
		return []byte(arg), nil
	case arg == "-":
		return readAll("standard input", a.stdin)
	case arg == "@":
		return nil, usagef("for the value @ itself add --literal", "%s: a file name must follow @", name)
	case strings.HasPrefix(arg, "@"):
		return readFile(arg[1:])
	}
	return []byte(arg), nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "a value that begins with @ is the name of a file; for the value itself add --literal"
		}
		return nil, fail(inputStatus(err), hint, "read %q: %w", name, bare(err))
	}
	defer f.Close()
	return readAll(name, f)
}

// readAll reads r, but not more than a value may have.
func readAll(name string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, store.MaxValueSize+1))
	if err != nil {
		return nil, fail(inputStatus(err), "", "read %q: %w", name, bare(err))
	}
	if len(data) > store.MaxValueSize {
		return nil, fail(exitData, "", "%q: more than the %d bytes that a value may have", name, store.MaxValueSize)
	}
	return data, nil
}

// encode turns text that a person or a command wrote into the bytes to store:
// as it is for the codec raw, or else as JSON that the codec then encodes.
func encode(codecName string, text []byte) ([]byte, error) {
	if codecName == codec.Raw.Name() {
		return text, nil
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return nil, errors.New("is empty, not JSON")
	}
	data, err := encodeJSON(codecName, text)
	var syntax *codec.SyntaxError
	if errors.As(err, &syntax) {
		return nil, fmt.Errorf("is not JSON: offset %d: %s", syntax.Offset, syntax.Reason)
	}
	return data, err
}

// encodeJSON is encode for the codecs that take JSON. A *codec.SyntaxError has
// the place in the text.
func encodeJSON(codecName string, text []byte) ([]byte, error) {
	canonical, err := codec.ToJSON(codec.JSON.Name(), text)
	switch {
	case err != nil:
		return nil, err
	case codecName == codec.JSON.Name():
		return canonical, nil
	case codecName == codec.MessagePack.Name():
		return fromJSON(canonical)
	}
	if _, err := codec.ByName(codecName); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("codec %s takes no JSON", codecName)
}

// decode is the way back: the text of a stored value, which for the codec raw
// is the value.
func decode(r store.Record) ([]byte, error) {
	if r.Codec == codec.Raw.Name() {
		return r.Value, nil
	}
	text, err := codec.ToJSON(r.Codec, r.Value)
	if err != nil {
		return nil, valueError(r.Key, err)
	}
	return text, nil
}

// checkJSONKeeps refuses a value that has parts that JSON cannot express, such
// as bytes and times in MessagePack: through a command that reads and writes
// JSON they would silently become something else.
func checkJSONKeeps(r store.Record, text []byte) error {
	if r.Codec == codec.Raw.Name() {
		return nil
	}
	if data, err := encode(r.Codec, text); err != nil || !bytes.Equal(data, r.Value) {
		return fail(exitData, "with --codec the new value replaces it whatever it was",
			"%q is %s with parts that JSON cannot express, which would be lost", r.Key, r.Codec)
	}
	return nil
}

// quoteArg shortens and quotes what a person typed.
func quoteArg(s string) string {
	const most = 40
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
