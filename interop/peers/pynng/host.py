"""The plugin's process and its control channel."""

import json
import os
import signal
import subprocess
import sys

import pynng

from channels import (
    CONTROL_MS,
    LAUNCH_MS,
    Deadline,
    Failure,
    exchange,
    expect_handshake,
    explained,
    listen,
)


def compact(value):
    """JSON as an engine writes it: no spaces, and letters as they are."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class Host:
    """One plugin. Its control channel outlives the process: the next one dials the same address."""

    def __init__(self, files):
        self.files = files
        self.plugin = None
        self.channel = None
        self.process = None

    def launch(self, plugin, command, cwd=None, timeout_ms=None):
        if not plugin or not command:
            raise Failure("it needs a plugin and a command")
        if self.plugin not in (None, plugin):
            raise Failure(f"this driver is the host of {self.plugin} already")
        self.kill()
        if self.channel is None:
            self.channel = listen(self.files, pynng.Rep0, f"ipc:///tmp/plugin_{plugin}.ipc")
        self.plugin = plugin
        try:
            # What it prints goes to our stderr, since our stdout has answers only.
            self.process = subprocess.Popen(
                [*command, '{"sendTimeout":1000}'],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                stderr=sys.stderr,
                start_new_session=True,
            )
            self._await_handshake(Deadline(timeout_ms, LAUNCH_MS))
        except BaseException:
            self.end()
            raise
        return {"ok": True, "pid": self.process.pid}

    def control(self, cmd, control, timeout_ms=None):
        answer, resent = self.tell(cmd, control, Deadline(timeout_ms, CONTROL_MS))
        return {"answer": answer, "resent": resent} if resent else {"answer": answer}

    def tell(self, cmd, control, deadline):
        """Sends a control command. The control object travels as a JSON string."""
        if self.channel is None:
            raise Failure("no plugin was launched")
        payload = compact({"cmd": cmd, "arg": compact(control)}).encode()
        answer, resent = exchange(self.channel, payload, deadline)
        return answer.decode("utf-8", "replace"), resent

    def begin(self, control):
        """Tells a symbol to start, and takes any answer but ok for a failure."""
        try:
            answer, _ = self.tell("start", control, Deadline(CONTROL_MS))
        except Failure as error:
            raise Failure(f"start: {error}") from error
        if answer != "ok":
            raise Failure(f"start was answered: {answer}")

    def finish(self, control):
        """Tells a symbol to stop. Its answer is a result and never hides what was received before."""
        try:
            return self.tell("stop", control, Deadline(CONTROL_MS))[0]
        except Failure as error:
            return str(error)

    def _await_handshake(self, deadline):
        """Gives up as soon as the process has ended. The engine does not."""
        while True:
            code = self.process.poll()
            try:
                return expect_handshake(self.channel, Deadline(min(deadline.ms, 100)))
            except pynng.Timeout:
                if code is not None:
                    raise Failure(f"the plugin ended before its handshake, exit code {code}") from None
                if deadline.over:
                    raise Failure("no handshake in time") from None
            except pynng.NNGException as error:
                raise Failure(explained(error)) from error

    def kill(self):
        """Ends the whole process group, also where its first process has gone."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process = None

    def end(self):
        self.kill()
        if self.channel is not None:
            self.channel.close()
        self.plugin = self.channel = None
