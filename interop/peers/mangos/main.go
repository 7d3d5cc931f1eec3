// The driver is a host for portable plugins that behaves as eKuiper's own
// runtime does: the same sockets, with the same options, of the same library
// (mangos). It is told what to do by JSON, one command per line on stdin, and
// gives one answer per line on stdout. ../README.md lists the commands.
//
// Where the engine would wait for an hour, this waits for seconds, so that a
// test fails and does not hang.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// driver is all the state that commands leave behind.
type driver struct {
	host      *host
	functions map[string]*channel
	raw       map[string]*rawSocket
	files     map[string]bool // every socket file that was in use, to be removed at the end
}

type handler func(d *driver, line []byte) (any, error)

var commands = map[string]handler{
	"launch":   decoded((*driver).launch),
	"control":  decoded((*driver).control),
	"source":   decoded((*driver).source),
	"sink":     decoded((*driver).sink),
	"function": decoded((*driver).function),
	"call":     decoded((*driver).call),
	"idle":     decoded((*driver).idle),
	"open":     decoded((*driver).open),
	"send":     decoded((*driver).send),
	"receive":  decoded((*driver).receive),
	"close":    decoded((*driver).closeRaw),
}

// decoded makes a handler of a method whose parameter says what the command
// holds. A field that is not there is an error: a typing slip must not turn a
// test into one that tests nothing.
func decoded[T any](run func(*driver, T) (any, error)) handler {
	return func(d *driver, line []byte) (any, error) {
		fields := map[string]json.RawMessage{}
		if err := json.Unmarshal(line, &fields); err != nil {
			return nil, err
		}
		delete(fields, "op")
		rest, err := json.Marshal(fields)
		if err != nil {
			return nil, err
		}
		decoder := json.NewDecoder(bytes.NewReader(rest))
		decoder.DisallowUnknownFields()
		var command T
		if err := decoder.Decode(&command); err != nil {
			return nil, err
		}
		return run(d, command)
	}
}

// answer runs one command and never panics.
func (d *driver) answer(line []byte) (result any) {
	defer func() {
		if cause := recover(); cause != nil {
			result = failure{fmt.Sprintf("the driver failed: %v", cause)}
		}
	}()
	var head struct {
		Op string `json:"op"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return failure{"not a command: " + err.Error()}
	}
	run, ok := commands[head.Op]
	if !ok {
		return failure{fmt.Sprintf("no such command: %q", head.Op)}
	}
	result, err := run(d, line)
	if err != nil {
		return failure{head.Op + ": " + err.Error()}
	}
	return result
}

// end leaves nothing behind: no process, no socket, no file.
func (d *driver) end() {
	d.host.end()
	for _, socket := range d.raw {
		_ = socket.Close()
	}
	for _, function := range d.functions {
		_ = function.Close()
	}
	for path := range d.files {
		removeDead(path)
	}
}

type (
	failure struct {
		Error string `json:"error"`
	}
	done struct {
		OK bool `json:"ok"`
	}
)

func main() {
	// A reader that has gone is to be an error of a write, and not the end before the
	// cleaning up. Ignoring the signal instead would be inherited by the plugin.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)

	d := &driver{
		functions: map[string]*channel{},
		raw:       map[string]*rawSocket{},
		files:     map[string]bool{},
	}
	defer d.end()

	answers := json.NewEncoder(os.Stdout)
	answers.SetEscapeHTML(false)
	lines := readLines(os.Stdin)
	for {
		select {
		case <-signals:
			return
		case line, ok := <-lines:
			if !ok {
				return
			}
			result := d.answer(line)
			err := answers.Encode(result)
			var unsupported *json.MarshalerError
			if errors.As(err, &unsupported) {
				err = answers.Encode(failure{err.Error()})
			}
			if err != nil {
				return
			}
		}
	}
}

// readLines ends its channel with the input. A last line needs no newline.
func readLines(input io.Reader) <-chan []byte {
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		reader := bufio.NewReader(input)
		for {
			line, err := reader.ReadBytes('\n')
			if len(line) > 0 {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}
