"""Sockets as the engine makes them, on libnng, and what the engine does on a REP channel.

The model is eKuiper's internal/plugin/portable/runtime/connection.go. Nothing here knows
about commands.
"""

import os
import socket
import stat
import time
from contextlib import suppress

import pynng

HANDSHAKE = b"handshake"

# The engine's defaults of sendTimeout and recvTimeout, and of initTimeout.
DATA_MS = 5_000
LAUNCH_MS = 60_000
# The engine waits for an hour.
CONTROL_MS = 10_000

# The engine has no such limit: a plugin whose every answer begins with an h keeps it busy for ever.
MAX_RESENDS = 1000


class Failure(Exception):
    """What becomes the `error` of an answer."""


class Deadline:
    """A point in time. `ms` is what is left of it, never 0."""

    def __init__(self, ms, otherwise=DATA_MS):
        self.end = time.monotonic() + (ms if ms and ms > 0 else otherwise) / 1000

    @property
    def ms(self):
        return max(int((self.end - time.monotonic()) * 1000), 1)

    @property
    def over(self):
        return time.monotonic() >= self.end


class Files:
    """Every socket file that was in use, to be removed at the end."""

    def __init__(self):
        self.paths = set()

    def add(self, address):
        self.paths.add(path(address))

    def remove(self):
        for file in self.paths:
            remove_dead(file)


def listen(files, kind, address):
    """A REP or PULL socket that takes messages of any length, as all sockets of the engine."""
    sock = kind(recv_max_size=0)
    try:
        for tries in range(6):
            try:
                listen_carefully(sock, address)
                break
            except pynng.NNGException as error:
                if tries == 5:
                    raise Failure(f"can't listen on {address}: {error}") from error
                time.sleep(0.1)
    except BaseException:
        sock.close()
        raise
    files.add(address)
    return sock


def listen_carefully(sock, address):
    """libnng removes whatever has the name of its socket file: a file of someone else's too."""
    with suppress(FileNotFoundError):
        if address.startswith("ipc://") and not stat.S_ISSOCK(os.lstat(path(address)).st_mode):
            raise Failure(f"{path(address)} is in use, and not a socket")
    sock.listen(address)


def dial_push(files, address):
    """Connects to a sink, at once or never: a sink listens before it says that it has started."""
    sock = pynng.Push0(reconnect_time_min=100, reconnect_time_max=5_000)
    files.add(address)
    try:
        sock.dial(address, block=True)
    except pynng.NNGException as error:
        sock.close()
        raise Failure(f"can't dial {address}: {error}") from error
    return sock


def exchange(sock, payload, deadline):
    """Sends a command or a call; returns the answer and how often the payload was sent again.

    It goes as the engine goes: where nothing was received that could be answered, what comes
    next is thrown away to have something; and whatever begins with an h is taken for a
    handshake, and the payload is sent again.
    """
    for resent in range(MAX_RESENDS + 1):
        try:
            try:
                send(sock, payload, deadline)
            except pynng.BadState:
                receive(sock, deadline)
                send(sock, payload, deadline)
        except pynng.NNGException as error:
            raise Failure(f"can't send: {explained(error)}") from error
        try:
            answer = receive(sock, deadline)
        except pynng.NNGException as error:
            raise Failure(f"no answer: {explained(error)}") from error
        if not answer.startswith(b"h"):
            return answer, resent
    raise Failure(f"still a handshake after it was sent {MAX_RESENDS + 1} times: {answer[:200]!r}")


def expect_handshake(sock, deadline):
    """Is stricter than the engine, which takes any message."""
    message = receive(sock, deadline)
    if message != HANDSHAKE:
        raise Failure(f"its first message is no handshake: {message[:200]!r}")


def send(sock, message, deadline):
    sock.send_timeout = deadline.ms
    sock.send(message)


def receive(sock, deadline):
    sock.recv_timeout = deadline.ms
    # Not recv(): pynng 0.8.1 fails there on a message of no bytes.
    return sock.recv_msg().bytes


def explained(error):
    """Gives the two errors that tests look for the same words in both drivers."""
    if isinstance(error, pynng.Timeout):
        return "timed out"
    if isinstance(error, pynng.BadState):
        return "incorrect protocol state"
    return str(error)


def path(address):
    return address[len("ipc://"):] if address.startswith("ipc://") else address


def remove_dead(file):
    """Removes a socket file that nobody listens on, and nothing else."""
    try:
        if not stat.S_ISSOCK(os.lstat(file).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0.1)
            probe.connect(file)
    except ConnectionRefusedError:
        with suppress(OSError):
            os.unlink(file)
    except OSError:
        pass
