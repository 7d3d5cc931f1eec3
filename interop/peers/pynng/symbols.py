"""Sources, sinks and functions, in the engine's order.

The models are source.go, sink.go and function.go in eKuiper's internal/plugin/portable/runtime.
A source or a sink is one command for its whole life; the channel of a function lives as long as
the host.
"""

import json
import time
from contextlib import suppress

import pynng

from channels import (
    DATA_MS,
    Deadline,
    Failure,
    dial_push,
    exchange,
    expect_handshake,
    explained,
    listen,
    receive,
    send,
)
from host import compact

# How long a sink without acks has for what is still on its way. The engine gives it nothing.
# Acks that arrive unasked for are listened to meanwhile.
TAIL_MS = 300


def address(meta, suffix=""):
    return f"ipc:///tmp/{meta['ruleId']}_{meta['opId']}_{meta['instanceId']}{suffix}.ipc"


def control_of(kind, symbol, rule, operator, instance, config):
    """What the engine sends of a symbol. It never fills dataSource: the topic is in the config."""
    if not symbol or not rule or not operator:
        raise Failure("it needs a symbol, a rule and an operator")
    control = {
        "symbolName": symbol,
        "meta": {"ruleId": rule, "opId": operator, "instanceId": instance},
        "pluginType": kind,
    }
    return {**control, "config": config} if config else control


def strict_json(message):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(message, parse_constant=refuse)


def receive_json(sock, count, deadline, messages):
    """Receives so many messages, or without end with a count below 0, into `messages`."""
    while len(messages) != count:
        try:
            message = receive(sock, deadline)
        except pynng.NNGException as error:
            raise Failure(explained(error)) from error
        try:
            messages.append(strict_json(message))
        except ValueError as error:
            raise Failure(f"a message is not JSON: {message[:200]!r}") from error


def drain(sock):
    """Receives what a peer has sent before it disconnected.

    Until a pause, since pynng may take a peer that came and went quickly for connected.
    """
    deadline = Deadline(DATA_MS)
    with suppress(pynng.Timeout):
        while not deadline.over:
            receive(sock, Deadline(100))


class Symbols:
    def __init__(self, host, files):
        self.host = host
        self.files = files
        self.functions = {}

    def source(self, symbol, rule, operator, instance=0, config=None, datasource=None, count=0, timeout_ms=None):
        config = dict(config or {})
        if datasource is not None:
            config["datasource"] = datasource
        control = control_of("source", symbol, rule, operator, instance, config)
        tuples = []
        with listen(self.files, pynng.Pull0, address(control["meta"])) as data:
            self.host.begin(control)
            failure = None
            try:
                receive_json(data, count, Deadline(timeout_ms), tuples)
            except Failure as error:
                failure = error
            # The engine closes its end first, as the peer on mangos does. libnng's nng_close can
            # wait for ever while a message is arriving (nanomsg/nng#1543).
            stop = self.host.finish(control)
            drain(data)
        if failure:
            raise Failure(f"{len(tuples)} of {count} messages were received, then: {failure} (stop: {stop})")
        return {"tuples": tuples, "start": "ok", "stop": stop}

    def sink(self, symbol, rule, operator, instance=0, config=None, require_ack=False, messages=(), timeout_ms=None):
        config = dict(config or {})
        if require_ack:
            config["requireAck"] = True
        control = control_of("sink", symbol, rule, operator, instance, config)
        fed = {"sent": 0, "acks": []}
        with listen(self.files, pynng.Pull0, address(control["meta"], "_ack")) as acks:
            self.host.begin(control)
            # The engine dials after the start, so the sink has to listen before it answers.
            failure = None
            try:
                with dial_push(self.files, address(control["meta"])) as data:
                    feed(data, acks, messages, require_ack, Deadline(timeout_ms), fed)
            except Failure as error:
                failure = error
        stop = self.host.finish(control)
        if failure:
            done = f"{fed['sent']} messages were sent and {len(fed['acks'])} acks received"
            raise Failure(f"{done}, then: {failure} (stop: {stop})")
        return {**fed, "start": "ok", "stop": stop}

    def function(self, symbol, timeout_ms=None):
        """Starts a function and waits for its handshake.

        A second time, for a plugin that was launched again, it keeps the channel, as the engine does.
        """
        if not symbol:
            raise Failure("it needs a symbol")
        channel = self.functions.get(symbol)
        known = channel is not None
        if not known:
            channel = listen(self.files, pynng.Rep0, f"ipc:///tmp/func_{symbol}.ipc")
        meta = {"ruleId": "", "opId": "", "instanceId": 0}
        try:
            self.host.begin({"symbolName": symbol, "meta": meta, "pluginType": "func"})
            expect_handshake(channel, Deadline(timeout_ms))
        except (Failure, pynng.NNGException) as error:
            if not known:
                channel.close()
            if isinstance(error, Failure):
                raise
            raise Failure(f"handshake: {explained(error)}") from error
        self.functions[symbol] = channel
        return {"ok": True}

    def call(self, symbol, func, args=None, meta=None, repeat=0, timeout_ms=None):
        channel = self._started(symbol)
        payload = call_payload(func, args, meta)
        times, again = [], 0
        begin = time.perf_counter()
        for _ in range(max(repeat, 1)):
            before = time.perf_counter()
            reply, resent = exchange(channel, payload, Deadline(timeout_ms))
            times.append(time.perf_counter() - before)
            again += resent
        total = time.perf_counter() - begin
        try:
            answer = {"reply": strict_json(reply)}
        except ValueError as error:
            raise Failure(f"the reply is not JSON: {reply[:200]!r}") from error
        if again:
            answer["resent"] = again
        if repeat > 0:
            answer["p50_us"] = sorted(times)[len(times) // 2] * 1e6
            answer["rate"] = len(times) / total
        return answer

    def idle(self, symbol, seconds):
        """Does what the engine does between two records: it reads nothing, and the keepalives queue up."""
        self._started(symbol)
        time.sleep(seconds)
        return {"ok": True}

    def _started(self, symbol):
        if symbol not in self.functions:
            raise Failure(f"the function {symbol!r} was not started")
        return self.functions[symbol]

    def end(self):
        for channel in self.functions.values():
            channel.close()


def feed(data, acks, messages, require_ack, deadline, fed):
    """Sends all messages, each after the ack of the one before it where acks are on."""
    for message in messages:
        try:
            send(data, compact(message).encode(), deadline)
        except pynng.NNGException as error:
            raise Failure(explained(error)) from error
        fed["sent"] += 1
        if require_ack:
            try:
                receive_json(acks, fed["sent"], deadline, fed["acks"])
            except Failure as error:
                raise Failure(f"no ack: {error}") from error
    if not require_ack:
        try:
            receive_json(acks, -1, Deadline(TAIL_MS), fed["acks"])
        except Failure:
            pass


def call_payload(func, args, meta):
    """`arg` is null for IsAggregate, as the engine's, and a list for all else.

    For Exec the FuncMeta comes last, as a JSON string.
    """
    if args is None and func != "IsAggregate":
        args = []
    if func == "Exec":
        about = meta or {"ruleId": "driver", "opId": "call", "instanceId": 0, "funcId": 0}
        args = [*args, compact(about)]
    return compact({"func": func, "arg": args}).encode()
