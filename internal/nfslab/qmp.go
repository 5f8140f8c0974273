//go:build linux

package nfslab

import (
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// link pulls or plugs the cable of a client, at its end.
func (g *Guest) link(up bool) error {
	return g.monitor("set_link", map[string]any{"name": fmt.Sprintf("card%d", g.number), "up": up})
}

// monitor gives qemu one command in its protocol, QMP.
func (g *Guest) monitor(command string, arguments map[string]any) error {
	conn, err := net.Dial("unix", g.path("qmp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for _, c := range []map[string]any{
		{"execute": "qmp_capabilities"},
		{"execute": command, "arguments": arguments},
	} {
		if err := out.Encode(c); err != nil {
			return err
		}
		if err := answered(in); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	return nil
}

// answered reads up to the answer: greetings and events come in between.
func answered(in *json.Decoder) error {
	for {
		var m struct {
			Return *json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := in.Decode(&m); err != nil {
			return err
		}
		if m.Error != nil {
			return fmt.Errorf("qemu: %s", m.Error.Desc)
		}
		if m.Return != nil {
			return nil
		}
	}
}
