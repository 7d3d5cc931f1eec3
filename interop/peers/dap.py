"""A debugger's client: stops a Python program at a line, and lets it go on.

Usage: dap.py PORT FILE LINE. Connects to debugpy at PORT as soon as it listens,
sets a breakpoint, says "stopped" and the frame on stdout when it is hit, and
goes on when stdin ends.
"""

import json
import socket
import sys
import time

port, path, line = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
while True:
    try:
        stream = socket.create_connection(("127.0.0.1", port))
        break
    except ConnectionRefusedError:
        time.sleep(0.02)
reader = stream.makefile("rb")
number = 0


def send(command, **arguments):
    global number
    number += 1
    body = json.dumps({"seq": number, "type": "request", "command": command, "arguments": arguments}).encode()
    stream.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


def receive(kind, name):
    while True:
        length = 0
        while header := reader.readline().strip():
            length = int(header.split(b":")[1])
        message = json.loads(reader.read(length))
        if message["type"] == kind and message.get("event" if kind == "event" else "command") == name:
            return message


send("initialize", adapterID="test", pathFormat="path")
receive("response", "initialize")
send("attach", justMyCode=False)
receive("event", "initialized")
send("setBreakpoints", source={"path": path}, breakpoints=[{"line": line}])
receive("response", "setBreakpoints")
send("configurationDone")
thread = receive("event", "stopped")["body"]["threadId"]
send("stackTrace", threadId=thread)
frame = receive("response", "stackTrace")["body"]["stackFrames"][0]
print("stopped in", frame["name"], "line", frame["line"], flush=True)
sys.stdin.read()
send("setBreakpoints", source={"path": path}, breakpoints=[])
receive("response", "setBreakpoints")
send("continue", threadId=thread)
receive("response", "continue")
send("disconnect", terminateDebuggee=False)
receive("response", "disconnect")
print("going on", flush=True)
