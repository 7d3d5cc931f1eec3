"""The plugin of `bench.py` as plain functions, the way of our module alone."""

import os
import time

from ekuiper import Plugin

NAME = os.path.basename(os.getcwd())
CHANNELS = 8

app = Plugin(NAME)
total = 0.0


def readings(note: str):
    reading = {"id": 1000000000, "temperature": 21.625, "humidity": 48.25, "alarm": False, "note": note}
    while True:
        reading["id"] += 1
        yield reading


for name in ("typed", "value"):
    app.source(name="%s_%s" % (NAME, name))(readings)


@app.sink(name="%s_rows" % NAME)
def rows(row: dict):
    global total
    total += row["temperature"]


@app.sink(name="%s_bytes" % NAME)
def take(message: bytes):
    pass


def echo(text: str) -> str:
    return text


for index in range(CHANNELS):
    app.function(name="%s_echo%d" % (NAME, index))(echo)


@app.function(name="%s_double" % NAME)
def double(number: float) -> float:
    return number * 2.0


@app.function(name="%s_upper" % NAME)
def upper(text: str) -> str:
    return text.upper()


@app.function(name="%s_busy" % NAME)
def busy(micros: int) -> int:
    until = time.thread_time() + micros / 1e6
    while time.thread_time() < until:
        pass
    return micros


if __name__ == "__main__":
    app.run()
