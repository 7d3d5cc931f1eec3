"""A portable plugin in Python, on the official SDK: one symbol of each kind."""

import threading
from typing import Any, List

from ekuiper import Context, Function, PluginConfig, Sink, Source, plugin


class PyJson(Source):
    """A source that emits a row every `interval` milliseconds, `count` rows or without end."""

    def __init__(self):
        self.interval = 0.5
        self.count = None
        self.stopped = threading.Event()

    def configure(self, datasource: str, conf: dict):
        self.interval = float(conf.get("interval", 500)) / 1000
        self.count = conf.get("count")

    def open(self, ctx: Context):
        number = 0
        while not self.stopped.is_set() and (self.count is None or number < self.count):
            number += 1
            ctx.emit({"name": "pyjson", "value": number}, None)
            self.stopped.wait(self.interval)
        # Returning would close the channel, with the rows that are still in it.
        self.stopped.wait()

    def close(self, ctx: Context):
        """Wakes `open`, which returns then; called from another thread while `open` runs."""
        self.stopped.set()


class PrintSink(Sink):
    """A sink that prints messages, and acknowledges them if the rule sets `requireAck`."""

    def __init__(self):
        self.require_ack = False

    def configure(self, conf: dict):
        self.require_ack = conf.get("requireAck", False) is True

    def open(self, ctx: Context):
        pass

    def collect(self, ctx: Context, data: Any):
        print("received:", data.decode("utf-8", "replace"), flush=True)
        # An engine that did not ask for acks never reads them, and the channel would fill up.
        if self.require_ack:
            ctx.ack_ok()

    def close(self, ctx: Context):
        pass


class Revert(Function):
    """A function that reverses a text."""

    def validate(self, args: List[Any]):
        return "" if len(args) == 1 else "revert takes 1 argument, got %d" % len(args)

    def exec(self, args: List[Any], ctx: Context) -> Any:
        return args[0][::-1]

    def is_aggregate(self):
        return False


if __name__ == "__main__":
    plugin.start(
        PluginConfig("pysam", {"pyjson": PyJson}, {"print": PrintSink}, {"revert": Revert})
    )
