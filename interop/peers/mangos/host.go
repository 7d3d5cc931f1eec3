package main

// The plugin's process and its control channel.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// host is one plugin. Its control channel outlives the process: the next one
// of the same plugin dials the same address.
type host struct {
	plugin  string
	control *channel
	process *exec.Cmd
	exited  chan struct{}
}

type launchCommand struct {
	Plugin    string   `json:"plugin"`
	Command   []string `json:"command"`
	Cwd       string   `json:"cwd"`
	TimeoutMs int      `json:"timeout_ms"`
}

func (d *driver) launch(c launchCommand) (any, error) {
	if c.Plugin == "" || len(c.Command) == 0 {
		return nil, errors.New("it needs a plugin and a command")
	}
	if d.host != nil && d.host.plugin != c.Plugin {
		return nil, fmt.Errorf("this driver is the host of %s already", d.host.plugin)
	}
	if d.host == nil {
		control, err := d.listenChannel("ipc:///tmp/plugin_" + c.Plugin + ".ipc")
		if err != nil {
			return nil, err
		}
		d.host = &host{plugin: c.Plugin, control: control}
	}
	d.host.kill()
	if err := d.host.start(c.Command, c.Cwd); err != nil {
		d.host.end()
		d.host = nil
		return nil, err
	}
	if err := d.host.awaitHandshake(milliseconds(c.TimeoutMs, launchTimeout)); err != nil {
		d.host.end()
		d.host = nil
		return nil, err
	}
	return struct {
		done
		Pid int `json:"pid"`
	}{done{true}, d.host.process.Process.Pid}, nil
}

// start runs the command in a process group of its own. What it prints goes
// to our stderr, since our stdout has answers only.
func (h *host) start(command []string, folder string) error {
	arguments := append(command[1:len(command):len(command)], `{"sendTimeout":1000}`)
	process := exec.Command(command[0], arguments...)
	process.Dir = folder
	process.Stdout, process.Stderr = os.Stderr, os.Stderr
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := process.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = process.Wait()
		close(exited)
	}()
	h.process, h.exited = process, exited
	return nil
}

// awaitHandshake gives up as soon as the process has ended. The engine does not.
func (h *host) awaitHandshake(timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		ended := false
		select {
		case <-h.exited:
			ended = true
		default:
		}
		err := h.control.expectHandshake(min(remaining(deadline), 100*time.Millisecond))
		switch {
		case err == nil:
			return nil
		case explained(err).Error() != "timed out":
			return err
		case ended:
			return fmt.Errorf("the plugin ended before its handshake: %s", h.process.ProcessState)
		case !time.Now().Before(deadline):
			return fmt.Errorf("no handshake within %s", timeout)
		}
	}
}

// kill ends the whole process group, also where its first process has gone.
func (h *host) kill() {
	if h.process == nil {
		return
	}
	_ = syscall.Kill(-h.process.Process.Pid, syscall.SIGKILL)
	<-h.exited
	h.process = nil
}

func (h *host) end() {
	if h != nil {
		h.kill()
		_ = h.control.Close()
	}
}

type controlCommand struct {
	Cmd       string          `json:"cmd"`
	Control   json.RawMessage `json:"control"`
	TimeoutMs int             `json:"timeout_ms"`
}

type controlAnswer struct {
	Answer string `json:"answer"`
	Resent int    `json:"resent,omitempty"`
}

func (d *driver) control(c controlCommand) (any, error) {
	answer, resent, err := d.tell(c.Cmd, c.Control, milliseconds(c.TimeoutMs, controlTimeout))
	if err != nil {
		return nil, err
	}
	return controlAnswer{answer, resent}, nil
}

// tell sends a control command. The control object travels as a JSON string.
func (d *driver) tell(cmd string, control any, timeout time.Duration) (string, int, error) {
	if d.host == nil {
		return "", 0, errors.New("no plugin was launched")
	}
	argument, err := json.Marshal(control)
	if err != nil {
		return "", 0, err
	}
	payload, err := json.Marshal(struct {
		Cmd string `json:"cmd"`
		Arg string `json:"arg"`
	}{cmd, string(argument)})
	if err != nil {
		return "", 0, err
	}
	answer, resent, err := d.host.control.exchange(payload, timeout)
	return string(bytes.ToValidUTF8(answer, []byte("\uFFFD"))), resent, err
}

// begin tells a symbol to start, and takes any answer but ok for a failure.
func (d *driver) begin(control any) error {
	answer, _, err := d.tell("start", control, controlTimeout)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if answer != "ok" {
		return fmt.Errorf("start was answered: %s", answer)
	}
	return nil
}

// finish tells a symbol to stop. Its answer is a result and never hides what was received before.
func (d *driver) finish(control any) string {
	answer, _, err := d.tell("stop", control, controlTimeout)
	if err != nil {
		return err.Error()
	}
	return answer
}
