"""A portable plugin in Python, made of functions with annotations: symbols of each kind."""

import itertools
import time
from typing import Any, Dict, Iterator, List

from ekuiper import Plugin

app = Plugin("pyfunctions")


@app.function
def double(x: float) -> float:
    return x * 2


@app.function
def repeat(text: str, times: int = 2) -> str:
    return text * times


@app.function
def mean(values: List[float]) -> float:
    """An aggregate, since all parameters are lists."""
    return sum(values) / len(values)


@app.source
def ticks(interval: float = 1.0, start: int = 0) -> Iterator[Dict[str, int]]:
    """Emits a row every `interval` seconds."""
    for number in itertools.count(start):
        yield {"number": number}
        if interval:
            time.sleep(interval)


@app.sink
async def print_row(row: Dict[str, Any], refuse: str = "") -> None:
    """Prints each row; refuses a row that has a field named by `refuse`."""
    if refuse in row:
        raise ValueError("a row with %s" % refuse)
    print(row)


if __name__ == "__main__":
    app.run()
