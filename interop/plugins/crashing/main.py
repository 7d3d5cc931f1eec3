"""A supervised plugin in Python that crashes as it is told: by an exit, a fault in C code, a kill.

Its names begin with its folder's, so that tests that run at once do not meet in /tmp.
"""

import ctypes
import os
import signal
import threading

from ekuiper import Function, PluginConfig, Source, plugin

NAME = os.path.basename(os.path.dirname(os.path.abspath(__file__)))


class Crash(Function):
    """Crashes, or says how often it was asked in this process."""

    def __init__(self):
        self.calls = 0

    def validate(self, args):
        return ""

    def exec(self, args, ctx):
        if args[0] == "exit":
            os._exit(7)
        if args[0] == "segfault":
            ctypes.string_at(0)
        if args[0] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        return self.calls

    def is_aggregate(self):
        return False


class Count(Source):
    def configure(self, datasource, conf):
        self.stopped = threading.Event()

    def open(self, ctx):
        number = 0
        while not self.stopped.wait(0.005):
            number += 1
            ctx.emit({"number": number, "topic": "t"}, None)

    def close(self, ctx):
        self.stopped.set()


if __name__ == "__main__":
    plugin.start(PluginConfig(NAME, {NAME + "_count": Count}, {}, {NAME + "_crash": Crash}, supervised=True))
