"""The plugin on the official Python SDK, or our module, that is put through the faults: functions that say which
call they answer, a source that counts, sinks that acknowledge what they have written down.
`src/bin/plugin.rs` is the same on our SDK."""

import itertools
import json
import os
import threading
import time

from ekuiper import Function, PluginConfig, Sink, Source, plugin

try:
    from pynng import Timeout
except ImportError:
    # Our module, which waits for whoever reads.
    Timeout = TimeoutError

NAME = os.path.basename(os.getcwd())


class Record:
    """A file that is appended to, one write per line, unbuffered."""

    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.sequences = itertools.count()

    def write(self, number):
        sequence = next(self.sequences)
        line = b"\n%d %d %d;\n" % (number, os.getpid(), sequence)
        # A disk that fills up takes a piece first.
        if os.write(self.file, line) != len(line):
            raise OSError("a short write")
        return sequence

    def close(self):
        os.close(self.file)


class Exec(Function):
    """Called with a number and a text of any length, it says which execution of which process
    this is, and how long the text was."""

    def __init__(self, record, takes):
        self.record = record
        self.takes = takes

    def validate(self, args):
        return "" if len(args) == 2 else "takes a number and a text"

    def exec(self, args, ctx):
        number, text = args[:2]
        sequence = self.record.write(number)
        time.sleep(self.takes)
        return {"id": number, "pid": os.getpid(), "sequence": sequence, "length": len(text)}

    def is_aggregate(self):
        return False


class Count(Source):
    """Counts, a number every four milliseconds."""

    def __init__(self):
        self.stopped = threading.Event()

    def configure(self, datasource, conf):
        pass

    def open(self, ctx):
        run = time.time_ns()
        for number in itertools.count(1):
            if self.stopped.wait(0.004):
                return
            # The SDK gives up after a second in which the engine reads nothing; the tuple was not
            # sent then.
            while not self.stopped.is_set():
                try:
                    ctx.emit({"pid": os.getpid(), "run": run, "n": number}, None)
                    break
                except Timeout:
                    pass

    def close(self, ctx):
        self.stopped.set()


class Few(Source):
    """Emits as many rows as it is told to, and ends."""

    def __init__(self):
        self.rows = 0

    def configure(self, datasource, conf):
        self.rows = conf["rows"]

    def open(self, ctx):
        run = time.time_ns()
        for number in range(1, self.rows + 1):
            ctx.emit({"pid": os.getpid(), "run": run, "n": number}, None)

    def close(self, ctx):
        pass


class Fail(Source):
    """Fails, without a row."""

    def configure(self, datasource, conf):
        pass

    def open(self, ctx):
        raise RuntimeError("it fails")

    def close(self, ctx):
        pass


class Keep(Sink):
    """Writes down the number of each message. A message may ask for a pause."""

    def __init__(self):
        self.record = None

    def configure(self, conf):
        pass

    def open(self, ctx):
        self.record = Record("messages.log")

    def collect(self, ctx, data):
        message = json.loads(data)
        time.sleep(message["pause"] / 1000)
        try:
            self.record.write(message["id"])
        except OSError as error:
            ctx.ack_error(str(error))
        else:
            ctx.ack_ok()

    def close(self, ctx):
        if self.record:
            self.record.close()
            self.record = None


class Hold(Keep):
    """The same without acknowledgements."""

    def collect(self, ctx, data):
        message = json.loads(data)
        time.sleep(message["pause"] / 1000)
        self.record.write(message["id"])


if __name__ == "__main__":
    record = Record("calls.log")
    plugin.start(
        PluginConfig(
            NAME,
            {NAME + "_count": Count, NAME + "_few": Few, NAME + "_fail": Fail},
            {NAME + "_keep": Keep, NAME + "_hold": Hold},
            {
                NAME + "_fast": lambda: Exec(record, 0),
                NAME + "_slow": lambda: Exec(record, 0.02),
                **{f"{NAME}_many{number}": lambda: Exec(record, 0) for number in range(12)},
            },
        )
    )
