// Measures mangos, the library of eKuiper's engine and of its Go SDK, with two
// processes of this program: `measure` starts `serve` and prints the figures
// as JSON. What travels is bytes; there is no JSON and no SDK in it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/pull"
	"go.nanomsg.org/mangos/v3/protocol/push"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	"go.nanomsg.org/mangos/v3/protocol/req"

	// ipc:// is the only scheme that the protocol has.
	_ "go.nanomsg.org/mangos/v3/transport/ipc"
)

const usage = "usage: mangos-bench measure calls|source|sink|ack SIZE CHANNELS SECONDS WARM-UP"

// patience bounds every wait: whoever waits longer has lost its peer.
const patience = 10 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mangos-bench:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 6 && arguments[0] == "measure" {
		var numbers [4]float64
		for i, text := range arguments[2:] {
			number, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return fmt.Errorf("%s\n%w", usage, err)
			}
			numbers[i] = number
		}
		return measure(arguments[1], int(numbers[0]), int(numbers[1]), seconds(numbers[2]), seconds(numbers[3]))
	}
	if len(arguments) == 4 && arguments[0] == "serve" {
		size, err := strconv.Atoi(arguments[2])
		if err != nil {
			return err
		}
		return serve(arguments[1], size, arguments[3])
	}
	return fmt.Errorf("%s", usage)
}

func seconds(number float64) time.Duration {
	return time.Duration(number * float64(time.Second))
}

// figures is what a measurement comes to; the CPU time is that of both
// processes, for all messages, those of the warm-up among them.
type figures struct {
	P50       *float64 `json:"p50_us,omitempty"`
	P99       *float64 `json:"p99_us,omitempty"`
	PerSecond float64  `json:"per_second"`
	Messages  int      `json:"messages"`
	CPU       float64  `json:"cpu_seconds"`
}

// channel is one pair of sockets: the data, and, where there are any, the acks.
type channel struct{ data, acks mangos.Socket }

func measure(mode string, size, channels int, measured, warmUp time.Duration) error {
	folder, err := os.MkdirTemp("", "mangos-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	open, ok := map[string]func() (mangos.Socket, error){
		"calls": req.NewSocket, "source": pull.NewSocket, "sink": push.NewSocket, "ack": push.NewSocket,
	}[mode]
	if !ok {
		return fmt.Errorf("%s", usage)
	}
	var opened []channel
	var children []*exec.Cmd
	defer func() {
		for _, child := range children {
			_ = child.Process.Kill()
			_ = child.Wait()
		}
	}()
	for i := range channels {
		url := "ipc://" + filepath.Join(folder, strconv.Itoa(i))
		data, err := listen(open, url)
		if err != nil {
			return err
		}
		one := channel{data: data}
		if mode == "ack" || mode == "sink" {
			if one.acks, err = listen(pull.NewSocket, url+"_ack"); err != nil {
				return err
			}
		}
		opened = append(opened, one)
	}
	// One process for all of them, as a plugin is.
	child := exec.Command(os.Args[0], "serve", mode, strconv.Itoa(size), filepath.Join(folder, "0"))
	child.Env = append(os.Environ(), "CHANNELS="+strconv.Itoa(channels))
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		return err
	}
	children = append(children, child)

	results := make([]result, channels)
	var group sync.WaitGroup
	for i := range opened {
		group.Add(1)
		go func() {
			defer group.Done()
			results[i] = opened[i].use(mode, make([]byte, size), measured, warmUp)
		}()
	}
	group.Wait()
	_ = child.Process.Kill()
	_ = child.Wait()
	children = nil

	var sum figures
	var times []time.Duration
	for _, result := range results {
		if result.err != nil {
			return result.err
		}
		sum.PerSecond += float64(result.count) / result.elapsed.Seconds()
		sum.Messages += result.all
		times = append(times, result.times...)
	}
	if len(times) > 0 {
		slices.Sort(times)
		sum.P50, sum.P99 = percentile(times, 50), percentile(times, 99)
	}
	sum.CPU = used(syscall.RUSAGE_SELF) + used(syscall.RUSAGE_CHILDREN)
	return json.NewEncoder(os.Stdout).Encode(sum)
}

type result struct {
	count, all int
	elapsed    time.Duration
	times      []time.Duration
	err        error
}

// use sends and receives for as long as it is told, after the warm-up.
func (c channel) use(mode string, message []byte, measured, warmUp time.Duration) (r result) {
	step := map[string]func() error{
		"calls":  func() error { return exchange(c.data, c.data, message) },
		"source": func() error { _, err := c.data.Recv(); return err },
		"sink":   func() error { return c.data.Send(message) },
		"ack":    func() error { return exchange(c.data, c.acks, message) },
	}[mode]
	finish := func() error { return nil }
	if mode == "sink" {
		// The other side acknowledges an empty message: it has all before it.
		finish = func() error { return exchange(c.data, c.acks, nil) }
	}
	for _, phase := range []time.Duration{warmUp, measured} {
		r.count, r.times = 0, r.times[:0]
		start := time.Now()
		for before := start; time.Since(start) < phase || r.count == 0; {
			if r.err = step(); r.err != nil {
				return r
			}
			r.count++
			if mode == "calls" {
				now := time.Now()
				r.times = append(r.times, now.Sub(before))
				before = now
			}
		}
		if r.err = finish(); r.err != nil {
			return r
		}
		r.elapsed = time.Since(start)
		r.all += r.count
	}
	return r
}

func exchange(out, in mangos.Socket, message []byte) error {
	if err := out.Send(message); err != nil {
		return err
	}
	_, err := in.Recv()
	return err
}

func serve(mode string, size int, path string) error {
	channels, _ := strconv.Atoi(os.Getenv("CHANNELS"))
	failures := make(chan error, channels)
	for i := range channels {
		url := "ipc://" + filepath.Join(filepath.Dir(path), strconv.Itoa(i))
		go func() { failures <- serveOne(mode, make([]byte, size), url) }()
	}
	return <-failures
}

func serveOne(mode string, message []byte, url string) error {
	open := map[string]func() (mangos.Socket, error){
		"calls": rep.NewSocket, "source": push.NewSocket, "sink": pull.NewSocket, "ack": pull.NewSocket,
	}[mode]
	data, err := dial(open, url)
	if err != nil {
		return err
	}
	acks := data
	if mode == "sink" || mode == "ack" {
		if acks, err = dial(push.NewSocket, url+"_ack"); err != nil {
			return err
		}
	}
	for mode == "source" {
		if err := data.Send(message); err != nil {
			return err
		}
	}
	for {
		received, err := data.Recv()
		if err != nil {
			return err
		}
		switch {
		case mode == "calls":
			err = data.Send(received)
		case mode == "ack" || len(received) == 0:
			err = acks.Send([]byte("{}"))
		}
		if err != nil {
			return err
		}
	}
}

func listen(open func() (mangos.Socket, error), url string) (mangos.Socket, error) {
	return connected(open, func(socket mangos.Socket) error { return socket.Listen(url) })
}

func dial(open func() (mangos.Socket, error), url string) (mangos.Socket, error) {
	return connected(open, func(socket mangos.Socket) error { return socket.Dial(url) })
}

func connected(open func() (mangos.Socket, error), connect func(mangos.Socket) error) (mangos.Socket, error) {
	socket, err := open()
	if err != nil {
		return nil, err
	}
	// As the engine sets it: messages of any length.
	if err := socket.SetOption(mangos.OptionMaxRecvSize, 0); err != nil {
		return nil, err
	}
	for _, option := range []string{mangos.OptionRecvDeadline, mangos.OptionSendDeadline} {
		if err := socket.SetOption(option, patience); err != nil && err != mangos.ErrBadOption {
			return nil, err
		}
	}
	return socket, connect(socket)
}

func percentile(sorted []time.Duration, percent int) *float64 {
	rank := max((len(sorted)*percent+99)/100, 1)
	micros := float64(sorted[rank-1].Nanoseconds()) / 1000
	return &micros
}

// used is CPU time in seconds.
func used(who int) float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(who, &usage); err != nil {
		return 0
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}
