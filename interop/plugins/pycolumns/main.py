"""A plugin whose symbols take columns, and some that take rows."""

import os
import time
from typing import Dict, List, Optional

import numpy
from numpy.typing import NDArray

from ekuiper import Column, Context, Plugin

app = Plugin("pycolumns")


@app.function(columns=True)
def double(x: numpy.ndarray) -> numpy.ndarray:
    return x * 2


@app.function(columns=True)
def typed(x: NDArray[numpy.float64], ctx: Context) -> NDArray[numpy.float64]:
    assert x.dtype == numpy.float64 and ctx.get_rule_id()
    return x / 2


@app.function(columns=True)
def masked(x: numpy.ma.MaskedArray) -> numpy.ma.MaskedArray:
    return x + 1


@app.function(columns=True)
def same(x: Column) -> Column:
    return x


@app.function(columns=True)
def total(x: memoryview, y: memoryview) -> List[float]:
    return [a + b for a, b in zip(x, y)]


@app.function(columns=True)
def half_of_them(x: numpy.ndarray) -> numpy.ndarray:
    return x[: len(x) // 2]


@app.function(columns=True)
def refuse(x: numpy.ndarray) -> numpy.ndarray:
    raise ValueError("not today")


@app.function(columns=True)
def wide(x: numpy.ndarray) -> List[str]:
    return ["x" * 1000] * len(x)


@app.function(columns=True)
def crash(x: numpy.ndarray) -> numpy.ndarray:
    os._exit(9)


@app.function(columns=True)
def until_cancelled(path: List[str], ctx: Context) -> List[str]:
    with open(path[0], "a") as file:
        file.write("begun\n")
        file.flush()
        while not ctx.is_cancelled():
            time.sleep(0.001)
        file.write("cancelled\n")
    return path


kept = []


@app.function(columns=True)
def keep(x: numpy.ndarray) -> List[float]:
    """The sum of each array that was kept, however old its message is."""
    kept.append(x)
    return [float(sum(array.sum() for array in kept))] * len(x)


@app.function
def triple(x: float) -> float:
    return x * 3


@app.function
def below_ten(x: int) -> Optional[int]:
    if x >= 10:
        raise ValueError("%d is not below ten" % x)
    return x or None


@app.source(columns=True)
def ramp(rows: int = 1000, count: int = 3):
    for number in range(count):
        start = number * rows
        x = numpy.ma.MaskedArray(numpy.arange(start, start + rows) / 2, mask=numpy.arange(rows) == 3)
        yield {"n": numpy.arange(start, start + rows), "x": x, "name": ["row %d" % start] * rows}
    yield {"n": 7}


@app.source
def rows(count: int = 10):
    for number in range(count):
        yield {"n": number, "name": "row %d" % number}


@app.sink(columns=True)
def totals(batch: Dict[str, numpy.ndarray], path: str):
    with open(path, "a") as file:
        file.write("%d rows, %s: %g\n" % (len(batch["x"]), batch["name"][0], batch["x"].sum()))


@app.sink
def lines(row: dict, path: str):
    with open(path, "a") as file:
        file.write("%s\n" % row)


if __name__ == "__main__":
    app.run()
