package main

// Sources and sinks: one command is the whole life of a symbol, in the
// engine's order (its internal/plugin/portable/runtime/source.go and sink.go).

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.nanomsg.org/mangos/v3"
)

// tail is how long a sink without acks has for what is still on its way. The
// engine gives it nothing: closing its PUSH socket drops what the library
// holds. Acks that arrive unasked for are listened to meanwhile.
const tail = 300 * time.Millisecond

type meta struct {
	RuleID     string `json:"ruleId"`
	OpID       string `json:"opId"`
	InstanceID int    `json:"instanceId"`
}

func (m meta) address(suffix string) string {
	return fmt.Sprintf("ipc:///tmp/%s_%s_%d%s.ipc", m.RuleID, m.OpID, m.InstanceID, suffix)
}

// control is what the engine sends of a symbol. It never fills dataSource: the
// topic is in the config.
type control struct {
	SymbolName string                     `json:"symbolName"`
	Meta       meta                       `json:"meta"`
	PluginType string                     `json:"pluginType"`
	Config     map[string]json.RawMessage `json:"config,omitempty"`
}

// symbol is what source and sink commands have in common.
type symbol struct {
	Symbol    string                     `json:"symbol"`
	Rule      string                     `json:"rule"`
	Operator  string                     `json:"operator"`
	Instance  int                        `json:"instance"`
	Config    map[string]json.RawMessage `json:"config"`
	TimeoutMs int                        `json:"timeout_ms"`
}

func (s symbol) control(kind string) (control, error) {
	if s.Symbol == "" || s.Rule == "" || s.Operator == "" {
		return control{}, errors.New("it needs a symbol, a rule and an operator")
	}
	return control{s.Symbol, meta{s.Rule, s.Operator, s.Instance}, kind, s.Config}, nil
}

func (s *symbol) configure(key string, value any) {
	if s.Config == nil {
		s.Config = map[string]json.RawMessage{}
	}
	s.Config[key], _ = json.Marshal(value)
}

type sourceCommand struct {
	symbol
	Datasource *string `json:"datasource"`
	Count      int     `json:"count"`
}

func (d *driver) source(c sourceCommand) (any, error) {
	if c.Datasource != nil {
		c.configure("datasource", *c.Datasource)
	}
	control, err := c.control("source")
	if err != nil {
		return nil, err
	}
	data, err := d.listenPull(control.Meta.address(""))
	if err != nil {
		return nil, err
	}
	defer data.Close()
	if err := d.begin(control); err != nil {
		return nil, err
	}
	tuples, err := receiveJSON(data, c.Count, time.Now().Add(milliseconds(c.TimeoutMs, dataTimeout)))
	_ = data.Close()
	stop := d.finish(control)
	if err != nil {
		return nil, fmt.Errorf("%d of %d messages were received, then: %w (stop: %s)", len(tuples), c.Count, err, stop)
	}
	return struct {
		Tuples []json.RawMessage `json:"tuples"`
		Start  string            `json:"start"`
		Stop   string            `json:"stop"`
	}{tuples, "ok", stop}, nil
}

type sinkCommand struct {
	symbol
	RequireAck bool              `json:"require_ack"`
	Messages   []json.RawMessage `json:"messages"`
}

func (d *driver) sink(c sinkCommand) (any, error) {
	if c.RequireAck {
		c.configure("requireAck", true)
	}
	control, err := c.control("sink")
	if err != nil {
		return nil, err
	}
	acks, err := d.listenPull(control.Meta.address("_ack"))
	if err != nil {
		return nil, err
	}
	defer acks.Close()
	if err := d.begin(control); err != nil {
		return nil, err
	}
	// The engine dials after the start, so the sink has to listen before it answers.
	data, err := d.dialPush(control.Meta.address(""))
	if err != nil {
		return nil, fmt.Errorf("%w (stop: %s)", err, d.finish(control))
	}
	sent, received, err := c.feed(data, acks)
	_ = data.Close()
	_ = acks.Close()
	stop := d.finish(control)
	if err != nil {
		return nil, fmt.Errorf("%d messages were sent and %d acks received, then: %w (stop: %s)", sent, len(received), err, stop)
	}
	return struct {
		Sent  int               `json:"sent"`
		Acks  []json.RawMessage `json:"acks"`
		Start string            `json:"start"`
		Stop  string            `json:"stop"`
	}{sent, received, "ok", stop}, nil
}

// feed sends all messages, each after the ack of the one before it where acks are on.
func (c sinkCommand) feed(data, acks mangos.Socket) (sent int, received []json.RawMessage, err error) {
	received = []json.RawMessage{}
	deadline := time.Now().Add(milliseconds(c.TimeoutMs, dataTimeout))
	for _, message := range c.Messages {
		var text bytes.Buffer
		if err := json.Compact(&text, message); err != nil {
			return sent, received, err
		}
		if err := sendBefore(data, text.Bytes(), deadline); err != nil {
			return sent, received, explained(err)
		}
		sent++
		if c.RequireAck {
			ack, err := receiveJSON(acks, 1, deadline)
			if err != nil {
				return sent, received, fmt.Errorf("no ack: %w", err)
			}
			received = append(received, ack...)
		}
	}
	if !c.RequireAck {
		unasked, _ := receiveJSON(acks, -1, time.Now().Add(tail))
		received = append(received, unasked...)
	}
	return sent, received, nil
}

// receiveJSON receives so many messages, or without end with a count below 0.
// It returns what it has also with an error.
func receiveJSON(socket mangos.Socket, count int, deadline time.Time) ([]json.RawMessage, error) {
	messages := []json.RawMessage{}
	for len(messages) != count {
		message, err := receiveBefore(socket, deadline)
		if err != nil {
			return messages, explained(err)
		}
		if !json.Valid(message) {
			return messages, fmt.Errorf("a message is not JSON: %.200q", message)
		}
		messages = append(messages, message)
	}
	return messages, nil
}
