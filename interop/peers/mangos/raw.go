package main

// Sockets for tests of one library against another, with the library's own
// defaults and no knowledge of plugins.

import (
	"bytes"
	"errors"
	"fmt"
	"hash/adler32"
	"strconv"
	"strings"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/pull"
	"go.nanomsg.org/mangos/v3/protocol/push"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	"go.nanomsg.org/mangos/v3/protocol/req"
)

const (
	// shown is how much of a received message is in the answer.
	shown = 200
	// patternLength is prime: a message that lost bytes in the middle is not the same.
	patternLength = 251
)

type rawSocket struct {
	mangos.Socket
}

var patterns = map[string]func() (mangos.Socket, error){
	"req":  req.NewSocket,
	"rep":  rep.NewSocket,
	"push": push.NewSocket,
	"pull": pull.NewSocket,
}

type openCommand struct {
	ID      string `json:"id"`
	Pattern string `json:"pattern"`
	Listen  string `json:"listen"`
	Dial    string `json:"dial"`
	Options struct {
		RetryMs *int `json:"retry_ms"`
		MaxSize *int `json:"max_size"`
	} `json:"options"`
}

func (d *driver) open(c openCommand) (any, error) {
	if _, taken := d.raw[c.ID]; taken || c.ID == "" {
		return nil, fmt.Errorf("the id %q is empty or in use", c.ID)
	}
	newSocket, ok := patterns[c.Pattern]
	if !ok {
		return nil, fmt.Errorf("no such pattern: %q", c.Pattern)
	}
	if (c.Listen == "") == (c.Dial == "") {
		return nil, errors.New("it needs an address to listen on or one to dial")
	}
	socket, err := newSocket()
	if err != nil {
		return nil, err
	}
	if err := c.connect(socket); err != nil {
		_ = socket.Close()
		return nil, err
	}
	if c.Listen != "" {
		d.files[path(c.Listen)] = true
	}
	d.raw[c.ID] = &rawSocket{socket}
	return done{true}, nil
}

// connect sets the options first: a listener takes them over when it is made.
func (c openCommand) connect(socket mangos.Socket) error {
	if c.Options.RetryMs != nil {
		retry := time.Duration(*c.Options.RetryMs) * time.Millisecond
		if err := socket.SetOption(mangos.OptionRetryTime, retry); err != nil {
			return fmt.Errorf("retry_ms: %w", err)
		}
	}
	if c.Options.MaxSize != nil {
		if err := socket.SetOption(mangos.OptionMaxRecvSize, *c.Options.MaxSize); err != nil {
			return fmt.Errorf("max_size: %w", err)
		}
	}
	if c.Listen != "" {
		return socket.Listen(c.Listen)
	}
	return socket.DialOptions(c.Dial, map[string]any{mangos.OptionDialAsynch: true})
}

type sendCommand struct {
	ID        string  `json:"id"`
	Text      *string `json:"text"`
	Size      *int    `json:"size"`
	Count     *int    `json:"count"`
	TimeoutMs int     `json:"timeout_ms"`
}

func (d *driver) send(c sendCommand) (any, error) {
	socket, ok := d.raw[c.ID]
	if !ok {
		return nil, fmt.Errorf("no socket has the id %q", c.ID)
	}
	if (c.Text == nil) == (c.Size == nil) {
		return nil, errors.New("it needs a text or a size")
	}
	if c.Size != nil && *c.Size < 0 {
		return nil, errors.New("the size is negative")
	}
	count := 1
	if c.Count != nil {
		count = *c.Count
	}
	deadline := time.Now().Add(milliseconds(c.TimeoutMs, dataTimeout))
	for sent := range count {
		if err := sendBefore(socket, c.message(sent), deadline); err != nil {
			return nil, fmt.Errorf("%d of %d messages were sent, then: %w", sent, count, explained(err))
		}
	}
	return done{true}, nil
}

// message is the text with its number for {n}, or so many bytes of a known pattern.
func (c sendCommand) message(number int) []byte {
	if c.Text != nil {
		return []byte(strings.ReplaceAll(*c.Text, "{n}", strconv.Itoa(number)))
	}
	message := make([]byte, *c.Size)
	for i := range message {
		message[i] = byte(i % patternLength)
	}
	return message
}

type receiveCommand struct {
	ID        string `json:"id"`
	Count     *int   `json:"count"`
	TimeoutMs int    `json:"timeout_ms"`
}

type rawMessage struct {
	Text string `json:"text"`
	Size int    `json:"size"`
	Sum  uint32 `json:"sum"`
}

func (d *driver) receive(c receiveCommand) (any, error) {
	socket, ok := d.raw[c.ID]
	if !ok {
		return nil, fmt.Errorf("no socket has the id %q", c.ID)
	}
	count := 1
	if c.Count != nil {
		count = *c.Count
	}
	messages := []rawMessage{}
	deadline := time.Now().Add(milliseconds(c.TimeoutMs, dataTimeout))
	for len(messages) < count {
		message, err := receiveBefore(socket, deadline)
		if err != nil {
			return nil, fmt.Errorf("%d of %d messages were received, then: %w", len(messages), count, explained(err))
		}
		text := message[:min(len(message), shown)]
		messages = append(messages, rawMessage{
			Text: string(bytes.ToValidUTF8(text, []byte("\uFFFD"))),
			Size: len(message),
			Sum:  adler32.Checksum(message),
		})
	}
	return struct {
		Messages []rawMessage `json:"messages"`
	}{messages}, nil
}

type closeCommand struct {
	ID string `json:"id"`
}

func (d *driver) closeRaw(c closeCommand) (any, error) {
	socket, ok := d.raw[c.ID]
	if !ok {
		return nil, fmt.Errorf("no socket has the id %q", c.ID)
	}
	delete(d.raw, c.ID)
	if err := socket.Close(); err != nil {
		return nil, err
	}
	return done{true}, nil
}
