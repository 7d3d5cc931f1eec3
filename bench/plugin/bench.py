"""The plugin that is measured, for the official Python SDK and, unchanged, for our module;
`src/plugin.rs` is the same in Rust."""

import json
import os
import time

from ekuiper import Function, PluginConfig, Sink, Source, plugin

try:
    from pynng import Timeout
except ImportError:  # Our module waits for the engine by itself.

    class Timeout(Exception):
        pass


NAME = os.path.basename(os.getcwd())
CHANNELS = 8


class Readings(Source):
    """Emits readings without end."""

    def __init__(self):
        self.stopped = False

    def configure(self, datasource, conf):
        self.note = conf["note"]

    def open(self, ctx):
        reading = {
            "id": 1000000000,
            "temperature": 21.625,
            "humidity": 48.25,
            "alarm": False,
            "note": self.note,
        }
        while not self.stopped:
            reading["id"] += 1
            # The SDK gives up after a second in which the engine reads nothing; the tuple was not
            # sent then.
            while not self.stopped:
                try:
                    ctx.emit(reading, None)
                    break
                except Timeout:
                    pass

    def close(self, ctx):
        self.stopped = True


class Bytes(Sink):
    """Takes bytes as they are."""

    def configure(self, conf):
        self.ack = conf.get("requireAck", False)
        self.file = conf.get("count")

    def open(self, ctx):
        self.sum = 0.0
        self.count = 0

    def collect(self, ctx, data):
        if self.ack:
            ctx.ack_ok()

    def close(self, ctx):
        pass


class Rows(Bytes):
    """Reads the rows, and adds up what they say; at its end it writes their number into the file `count`."""

    def collect(self, ctx, data):
        rows = json.loads(data)
        for row in rows if isinstance(rows, list) else [rows]:
            self.sum += row["temperature"]
            self.count += 1
        super().collect(ctx, data)

    def close(self, ctx):
        if self.file:
            with open(self.file, "w") as file:
                file.write(str(self.count))


class Call(Function):
    """A function of one argument."""

    def __init__(self, body):
        self.body = body

    def validate(self, args):
        return ""

    def exec(self, args, ctx):
        return self.body(args[0])

    def is_aggregate(self):
        return False


def busy(micros):
    until = time.thread_time() + micros / 1e6
    while time.thread_time() < until:
        pass
    return micros


def named(symbols):
    return {"%s_%s" % (NAME, name): symbol for name, symbol in symbols.items()}


if __name__ == "__main__":
    functions = {"echo%d" % index: lambda: Call(lambda text: text) for index in range(CHANNELS)}
    functions["double"] = lambda: Call(lambda number: number * 2.0)
    functions["upper"] = lambda: Call(str.upper)
    functions["busy"] = lambda: Call(busy)
    plugin.start(
        PluginConfig(
            NAME,
            named({"typed": Readings, "value": Readings}),
            named({"rows": Rows, "bytes": Bytes}),
            named(functions),
        )
    )
