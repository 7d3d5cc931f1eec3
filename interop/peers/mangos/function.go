package main

// Functions: their channel lives as long as the host.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

type functionCommand struct {
	Symbol    string `json:"symbol"`
	TimeoutMs int    `json:"timeout_ms"`
}

// function starts a function and waits for its handshake. A second time, for
// a plugin that was launched again, it keeps the channel, as the engine does.
func (d *driver) function(c functionCommand) (any, error) {
	if c.Symbol == "" {
		return nil, errors.New("it needs a symbol")
	}
	function, known := d.functions[c.Symbol]
	if !known {
		var err error
		if function, err = d.listenChannel("ipc:///tmp/func_" + c.Symbol + ".ipc"); err != nil {
			return nil, err
		}
	}
	err := d.begin(control{SymbolName: c.Symbol, PluginType: "func"})
	if err == nil {
		if err = function.expectHandshake(milliseconds(c.TimeoutMs, dataTimeout)); err != nil {
			err = fmt.Errorf("handshake: %w", explained(err))
		}
	}
	if err != nil {
		if !known {
			_ = function.Close()
		}
		return nil, err
	}
	d.functions[c.Symbol] = function
	return done{true}, nil
}

type funcMeta struct {
	meta
	FuncID int `json:"funcId"`
}

type callCommand struct {
	Symbol    string            `json:"symbol"`
	Func      string            `json:"func"`
	Args      []json.RawMessage `json:"args"`
	Meta      json.RawMessage   `json:"meta"`
	Repeat    int               `json:"repeat"`
	TimeoutMs int               `json:"timeout_ms"`
}

// payload is null for IsAggregate, as the engine's, and a list for all else.
// For Exec the FuncMeta comes last, as a JSON string.
func (c callCommand) payload() ([]byte, error) {
	arguments := slices.Clone(c.Args)
	if arguments == nil && c.Func != "IsAggregate" {
		arguments = []json.RawMessage{}
	}
	if c.Func == "Exec" {
		var about any = c.Meta
		if c.Meta == nil || string(c.Meta) == "null" {
			about = funcMeta{meta: meta{RuleID: "driver", OpID: "call"}}
		}
		inner, err := json.Marshal(about)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(string(inner))
		if err != nil {
			return nil, err
		}
		arguments = append(arguments, text)
	}
	return json.Marshal(struct {
		Func string            `json:"func"`
		Arg  []json.RawMessage `json:"arg"`
	}{c.Func, arguments})
}

type callAnswer struct {
	Reply  json.RawMessage `json:"reply"`
	Resent int             `json:"resent,omitempty"`
	P50    *float64        `json:"p50_us,omitempty"`
	Rate   *float64        `json:"rate,omitempty"`
}

func (d *driver) call(c callCommand) (any, error) {
	function, ok := d.functions[c.Symbol]
	if !ok {
		return nil, fmt.Errorf("the function %q was not started", c.Symbol)
	}
	payload, err := c.payload()
	if err != nil {
		return nil, err
	}
	timeout := milliseconds(c.TimeoutMs, dataTimeout)
	times := make([]time.Duration, 0, max(c.Repeat, 1))
	var answer callAnswer
	begin := time.Now()
	for range cap(times) {
		before := time.Now()
		reply, resent, err := function.exchange(payload, timeout)
		if err != nil {
			return nil, err
		}
		times = append(times, time.Since(before))
		answer.Reply = reply
		answer.Resent += resent
	}
	total := time.Since(begin)
	if !json.Valid(answer.Reply) {
		return nil, fmt.Errorf("the reply is not JSON: %.200q", []byte(answer.Reply))
	}
	if c.Repeat > 0 {
		slices.Sort(times)
		p50 := float64(times[len(times)/2].Nanoseconds()) / 1000
		rate := float64(len(times)) / total.Seconds()
		answer.P50, answer.Rate = &p50, &rate
	}
	return answer, nil
}

type idleCommand struct {
	Symbol  string  `json:"symbol"`
	Seconds float64 `json:"seconds"`
}

// idle does what the engine does between two records: it reads nothing at
// all, and what the plugin sends meanwhile queues up.
func (d *driver) idle(c idleCommand) (any, error) {
	if _, ok := d.functions[c.Symbol]; !ok {
		return nil, fmt.Errorf("the function %q was not started", c.Symbol)
	}
	time.Sleep(time.Duration(c.Seconds * float64(time.Second)))
	return done{true}, nil
}
