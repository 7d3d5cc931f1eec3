"""Sockets for tests of one library against another: libnng's own defaults, nothing of plugins."""

import zlib

import pynng

from channels import Deadline, Failure, explained, listen_carefully, receive, send

# How much of a received message is in the answer.
SHOWN = 200

# Its length is prime: a message that lost bytes in the middle is not the same.
PATTERN = bytes(range(251))

PATTERNS = {"req": pynng.Req0, "rep": pynng.Rep0, "push": pynng.Push0, "pull": pynng.Pull0}


class RawSockets:
    def __init__(self, files):
        self.files = files
        self.sockets = {}

    def open(self, id, pattern, listen=None, dial=None, options=None):
        if not id or id in self.sockets:
            raise Failure(f"the id {id!r} is empty or in use")
        if pattern not in PATTERNS:
            raise Failure(f"no such pattern: {pattern!r}")
        if bool(listen) == bool(dial):
            raise Failure("it needs an address to listen on or one to dial")
        sock = PATTERNS[pattern](**chosen(options or {}, pattern))
        try:
            if listen:
                listen_carefully(sock, listen)
                self.files.add(listen)
            else:
                sock.dial(dial, block=False)
        except BaseException:
            sock.close()
            raise
        self.sockets[id] = sock
        return {"ok": True}

    def send(self, id, text=None, size=None, count=1, timeout_ms=None):
        sock = self._socket(id)
        if (text is None) == (size is None):
            raise Failure("it needs a text or a size")
        if size is not None and size < 0:
            raise Failure("the size is negative")
        deadline = Deadline(timeout_ms)
        for sent in range(count):
            try:
                send(sock, message_of(text, size, sent), deadline)
            except pynng.NNGException as error:
                raise Failure(f"{sent} of {count} messages were sent, then: {explained(error)}") from error
        return {"ok": True}

    def receive(self, id, count=1, timeout_ms=None):
        sock = self._socket(id)
        deadline = Deadline(timeout_ms)
        messages = []
        while len(messages) < count:
            try:
                message = receive(sock, deadline)
            except pynng.NNGException as error:
                done = f"{len(messages)} of {count} messages were received"
                raise Failure(f"{done}, then: {explained(error)}") from error
            text = message[:SHOWN].decode("utf-8", "replace")
            messages.append({"text": text, "size": len(message), "sum": zlib.adler32(message)})
        return {"messages": messages}

    def close(self, id):
        self._socket(id).close()
        del self.sockets[id]
        return {"ok": True}

    def _socket(self, id):
        if id not in self.sockets:
            raise Failure(f"no socket has the id {id!r}")
        return self.sockets[id]

    def end(self):
        for sock in self.sockets.values():
            sock.close()


def message_of(text, size, number):
    """The text with its number for {n}, or so many bytes of a known pattern."""
    if text is not None:
        return text.replace("{n}", str(number)).encode()
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


def chosen(options, pattern):
    """Options by libnng's names. Only a REQ socket has a time to send again."""
    options = dict(options)
    given = {}
    if "max_size" in options:
        given["recv_max_size"] = options.pop("max_size")
    if "retry_ms" in options:
        if pattern != "req":
            raise Failure("retry_ms: only a req socket has it")
        given["resend_time"] = options.pop("retry_ms")
    if options:
        raise Failure(f"no such option: {', '.join(options)}")
    return given
