"""A host for portable plugins that behaves as eKuiper's own runtime does, on libnng.

It is told what to do by JSON, one command per line on stdin, and gives one answer per line on
stdout. ../README.md lists the commands. The twin of this driver, on the engine's own library, is
in ../mangos.
"""

import json
import os
import signal
import sys

from channels import Failure, Files
from host import Host
from raw import RawSockets
from symbols import Symbols, strict_json


class Driver:
    def __init__(self):
        self.files = Files()
        self.host = Host(self.files)
        self.symbols = Symbols(self.host, self.files)
        self.raw = RawSockets(self.files)
        self.commands = {
            "launch": self.host.launch,
            "control": self.host.control,
            "source": self.symbols.source,
            "sink": self.symbols.sink,
            "function": self.symbols.function,
            "call": self.symbols.call,
            "idle": self.symbols.idle,
            "open": self.raw.open,
            "send": self.raw.send,
            "receive": self.raw.receive,
            "close": self.raw.close,
        }

    def answer(self, line):
        """Runs one command. A field that is not there is an error of the call itself: a typing
        slip must not turn a test into one that tests nothing."""
        try:
            command = strict_json(line)
            op = command.pop("op", None)
            run = self.commands.get(op)
        except Exception as error:
            return {"error": f"not a command: {error}"}
        if run is None:
            return {"error": f"no such command: {op!r}"}
        try:
            return run(**command)
        except Failure as error:
            return {"error": f"{op}: {error}"}
        except Exception as error:
            return {"error": f"{op}: {type(error).__name__}: {error}"}

    def end(self):
        """Leaves nothing behind: no process, no socket, no file."""
        self.host.end()
        self.raw.end()
        self.symbols.end()
        self.files.remove()


def encoded(answer):
    try:
        return json.dumps(answer, allow_nan=False)
    except ValueError as error:
        return json.dumps({"error": f"the answer is not JSON: {error}"})


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
    driver = Driver()
    try:
        for line in sys.stdin.buffer:
            print(encoded(driver.answer(line)), flush=True)
    except BrokenPipeError:
        # Whoever reads the answers has gone. Python would say so once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        driver.end()


if __name__ == "__main__":
    main()
