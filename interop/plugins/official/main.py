"""A plugin on the official Python SDK for the tests: the symbols of examples/pysam, and some that
misbehave.

All its names begin with its folder's, so that tests that run at once do not meet in /tmp, which
is the only place that the SDK knows.
"""

import logging
import os
import subprocess
import threading
import time

from ekuiper import Function, PluginConfig, Sink, Source, plugin
from pysam import PrintSink, PyJson, Revert

NAME = os.path.basename(os.path.dirname(os.path.abspath(__file__)))


class Waiting(Source):
    """Stays until it is closed."""

    def __init__(self):
        self.stopped = threading.Event()

    def open(self, ctx):
        self.run(ctx)
        self.stopped.wait()

    def close(self, ctx):
        self.stopped.set()


class Told(Waiting):
    """Emits what it was configured with."""

    def configure(self, datasource, conf):
        self.told = {"datasource": datasource, "config": conf}

    def run(self, ctx):
        ids = {"rule": ctx.get_rule_id(), "op": ctx.get_op_id(), "instance": ctx.get_instance_id()}
        ctx.emit(self.told, ids)


class Faulty(Waiting):
    """Emits a row, an error, and a row."""

    def configure(self, datasource, conf):
        pass

    def run(self, ctx):
        ctx.emit({"row": 1}, None)
        ctx.emit_error("the sensor is gone")
        ctx.emit({"row": 2}, None)


class Picky(PrintSink):
    """Refuses what holds the word bad."""

    def collect(self, ctx, data):
        if b"bad" in data:
            ctx.ack_error("I do not like that")
        else:
            super().collect(ctx, data)


class Keep(Sink):
    """Appends what it gets to a file, at its leisure, and never acknowledges."""

    def configure(self, conf):
        self.path = conf["path"]
        self.pause = conf.get("pause", 0) / 1000

    def open(self, ctx):
        pass

    def collect(self, ctx, data):
        time.sleep(self.pause)
        with open(self.path, "ab") as file:
            file.write(data + b"\n")

    def close(self, ctx):
        pass


class Mean(Function):
    def validate(self, args):
        return ""

    def exec(self, args, ctx):
        return sum(args[0]) / len(args[0])

    def is_aggregate(self):
        return True


class Fail(Function):
    def validate(self, args):
        return ""

    def exec(self, args, ctx):
        raise ValueError("no luck with %s" % args[0])

    def is_aggregate(self):
        return False


class Brittle(Function):
    """Tells how often it was started; loses its connection, and not its process, when told to."""

    starts = 0

    def __init__(self):
        Brittle.starts += 1

    def validate(self, args):
        return ""

    def exec(self, args, ctx):
        if args[0]:
            threading.Timer(0.02, self.lose_connection).start()
        return Brittle.starts

    def lose_connection(self):
        # The inside of the official package alone.
        from ekuiper.runtime import reg

        for pipe in reg.get("func_%s_brittle" % NAME).ch.sock.pipes:
            pipe.close()
        open("lost%d" % Brittle.starts, "w").close()

    def is_aggregate(self):
        return False


class Vanishing(Brittle):
    """Ends with its connection before its handshake when it is started for the first time."""

    starts = 0

    def __init__(self):
        Vanishing.starts += 1
        # The inside of the official package alone.
        from ekuiper.runtime.connection import PairChannel

        run = PairChannel.run

        def vanish(channel, reply):
            PairChannel.run = run
            channel.sock.close()

        if Vanishing.starts == 1:
            PairChannel.run = vanish

    def exec(self, args, ctx):
        return Vanishing.starts


class Exit(Function):
    def validate(self, args):
        return ""

    def exec(self, args, ctx):
        os._exit(args[0])

    def is_aggregate(self):
        return False


def named(**symbols):
    return {"%s_%s" % (NAME, name): symbol for name, symbol in symbols.items()}


class Hesitation(logging.Handler):
    """Holds up a symbol's thread before the SDK has registered the symbol: widens its race with a
    stop, which is answered and ignored meanwhile."""

    def createLock(self):
        self.lock = None  # Others may log meanwhile.

    def emit(self, record):
        if record.getMessage().startswith("start running "):
            time.sleep(0.3)


if __name__ == "__main__":
    if os.path.exists("hesitate"):
        logging.getLogger().addHandler(Hesitation())
    if os.path.exists("orphan"):
        # It leaves the plugin's group, keeps its output, and goes by itself.
        subprocess.Popen(["sleep", "2"], start_new_session=True)
    plugin.start(
        PluginConfig(
            NAME,
            named(pyjson=PyJson, told=Told, faulty=Faulty),
            named(print=PrintSink, picky=Picky, keep=Keep),
            named(revert=Revert, mean=Mean, fail=Fail, exit=Exit, brittle=Brittle, vanishing=Vanishing),
        )
    )
