package main

// Sockets as the engine makes them (its internal/plugin/portable/runtime/connection.go),
// and what it does on a REP channel. Nothing here knows about commands.

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/pull"
	"go.nanomsg.org/mangos/v3/protocol/push"
	"go.nanomsg.org/mangos/v3/protocol/rep"

	// ipc:// is the only scheme that the protocol has.
	_ "go.nanomsg.org/mangos/v3/transport/ipc"
)

const (
	handshake = "handshake"

	// The engine's defaults of sendTimeout and recvTimeout.
	dataTimeout = 5 * time.Second
	// The engine waits for an hour.
	controlTimeout = 10 * time.Second
	// Of initTimeout.
	launchTimeout = 60 * time.Second

	// The engine has no such limit: a plugin whose every answer begins with an h keeps it busy for ever.
	maxResends = 1000
)

// listen makes a REP or PULL socket with the engine's options. All its sockets
// take messages of any length.
func (d *driver) listen(open func() (mangos.Socket, error), address string) (mangos.Socket, error) {
	socket, err := open()
	if err != nil {
		return nil, err
	}
	if err := socket.SetOption(mangos.OptionMaxRecvSize, 0); err != nil {
		return nil, err
	}
	for tries := 5; ; tries-- {
		if err = socket.Listen(address); err == nil {
			d.files[path(address)] = true
			return socket, nil
		}
		if tries == 0 {
			_ = socket.Close()
			return nil, fmt.Errorf("can't listen on %s: %w", address, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (d *driver) listenPull(address string) (mangos.Socket, error) {
	return d.listen(pull.NewSocket, address)
}

// dialPush connects to a sink. It does so at once or fails: a sink has to
// listen before it says that it has started.
func (d *driver) dialPush(address string) (mangos.Socket, error) {
	socket, err := push.NewSocket()
	if err != nil {
		return nil, err
	}
	d.files[path(address)] = true
	err = socket.DialOptions(address, map[string]any{
		mangos.OptionDialAsynch:       false,
		mangos.OptionMaxReconnectTime: 5 * time.Second,
		mangos.OptionReconnectTime:    100 * time.Millisecond,
	})
	if err != nil {
		_ = socket.Close()
		return nil, fmt.Errorf("can't dial %s: %w", address, err)
	}
	return socket, nil
}

// channel is the host's side of a control or a function channel.
type channel struct {
	mangos.Socket
}

func (d *driver) listenChannel(address string) (*channel, error) {
	socket, err := d.listen(rep.NewSocket, address)
	if err != nil {
		return nil, err
	}
	return &channel{socket}, nil
}

// exchange sends a command or a call and returns the answer to it. It goes as
// the engine goes: where nothing was received that could be answered, what
// comes next is thrown away to have something; and whatever begins with an h
// is taken for a handshake, and the payload is sent again.
func (c *channel) exchange(payload []byte, timeout time.Duration) (answer []byte, resent int, err error) {
	deadline := time.Now().Add(timeout)
	for ; resent <= maxResends; resent++ {
		err = sendBefore(c, payload, deadline)
		if errors.Is(err, mangos.ErrProtoState) {
			if _, err = receiveBefore(c, deadline); err == nil {
				err = sendBefore(c, payload, deadline)
			}
		}
		if err != nil {
			return nil, resent, fmt.Errorf("can't send: %w", explained(err))
		}
		if answer, err = receiveBefore(c, deadline); err != nil {
			return nil, resent, fmt.Errorf("no answer: %w", explained(err))
		}
		if len(answer) == 0 || answer[0] != 'h' {
			return answer, resent, nil
		}
	}
	return nil, resent, fmt.Errorf("still a handshake after it was sent %d times: %q", resent, answer)
}

// expectHandshake is stricter than the engine, which takes any message.
func (c *channel) expectHandshake(timeout time.Duration) error {
	message, err := receiveBefore(c, time.Now().Add(timeout))
	if err != nil {
		return err
	}
	if string(message) != handshake {
		return fmt.Errorf("its first message is no handshake: %q", message)
	}
	return nil
}

func sendBefore(socket mangos.Socket, message []byte, deadline time.Time) error {
	// A socket that can't send has no such option, and says so itself.
	err := socket.SetOption(mangos.OptionSendDeadline, remaining(deadline))
	if err != nil && !errors.Is(err, mangos.ErrBadOption) {
		return err
	}
	return socket.Send(message)
}

func receiveBefore(socket mangos.Socket, deadline time.Time) ([]byte, error) {
	err := socket.SetOption(mangos.OptionRecvDeadline, remaining(deadline))
	if err != nil && !errors.Is(err, mangos.ErrBadOption) {
		return nil, err
	}
	return socket.Recv()
}

// remaining is never zero, which would mean no deadline.
func remaining(deadline time.Time) time.Duration {
	return max(time.Until(deadline), time.Millisecond)
}

func milliseconds(given int, otherwise time.Duration) time.Duration {
	if given <= 0 {
		return otherwise
	}
	return time.Duration(given) * time.Millisecond
}

// explained gives the two errors that tests look for the same words in both drivers.
func explained(err error) error {
	switch {
	case errors.Is(err, mangos.ErrRecvTimeout), errors.Is(err, mangos.ErrSendTimeout):
		return errors.New("timed out")
	case errors.Is(err, mangos.ErrProtoState):
		return errors.New("incorrect protocol state")
	}
	return err
}

func path(address string) string {
	return strings.TrimPrefix(address, "ipc://")
}

// removeDead removes a socket file that nobody listens on, and nothing else.
func removeDead(path string) {
	if file, err := os.Lstat(path); err != nil || file.Mode().Type() != os.ModeSocket {
		return
	}
	connection, err := net.DialTimeout("unix", path, 100*time.Millisecond)
	if err == nil {
		_ = connection.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path)
	}
}
