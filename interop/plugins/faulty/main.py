"""A plugin on the module `ekuiper` that is told by its configuration how to misbehave."""

import os
import sys
import threading
import time

from ekuiper import Function, PluginConfig, Sink, Source, plugin


def note(path, line):
    if path:
        with open(path, "a") as file:
            file.write(line + "\n")


def hang(path):
    """Until the test says so, or much longer than it lasts."""
    deadline = time.monotonic() + 300
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)


class Counter(Source):
    def configure(self, datasource, conf):
        self.datasource, self.conf = datasource, conf
        self.stopped = threading.Event()
        if "hang" in conf:
            hang(conf["hang"])

    def open(self, ctx):
        note(self.conf.get("journal"), "open")
        if self.conf.get("report"):
            ctx.emit_error("no reading")
        if self.conf.get("raise"):
            raise OSError("the sensor is gone")
        if "long" in self.conf:
            ctx.emit({"text": "x" * self.conf["long"]}, None)
        number = 0
        while not self.stopped.is_set():
            number += 1
            ctx.emit({"number": number, "datasource": self.datasource, "conf": self.conf.get("datasource")}, None)
            self.stopped.wait(self.conf.get("interval", 0.001))

    def close(self, ctx):
        note(self.conf.get("journal"), "close")
        if "hang_in_close" in self.conf:
            hang(self.conf["hang_in_close"])
        self.stopped.set()


class Journal(Sink):
    def configure(self, conf):
        self.conf = conf

    def open(self, ctx):
        note(self.conf.get("journal"), "open")

    def collect(self, ctx, data):
        if self.conf.get("raise"):
            raise OSError("disk full")
        if "hang" in self.conf:
            hang(self.conf["hang"])
        if self.conf.get("slow"):
            time.sleep(0.01)
        note(self.conf.get("rows"), data.decode())
        if self.conf.get("silent"):
            return
        ctx.ack_ok()

    def close(self, ctx):
        note(self.conf.get("journal"), "close")


class Echo(Function):
    """Its argument; waits for a file of that name first, if there is a second one."""

    def validate(self, args):
        return ""

    def exec(self, args, ctx):
        if len(args) > 1:
            hang(args[1])
        return float("nan") if args[0] == "nan" else args[0]

    def is_aggregate(self):
        return False


class Loud(Echo):
    """Logs its argument."""

    def exec(self, args, ctx):
        import logging

        logging.info("I was told %s", args[0])


if __name__ == "__main__":
    if "logs_early" in os.environ:
        import logging  # noqa: F401
    config = PluginConfig("unruly", {"counter": Counter}, {"journal": Journal}, {"echo": Echo, "loud": Loud, "louder": Loud})
    plugin.start(config)
    print("after the start", file=sys.stderr, flush=True)
