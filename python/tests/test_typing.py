"""The types: the package itself, and programs of its users, pass mypy --strict."""

import subprocess
import sys

PROGRAM = '''
import itertools
from typing import Any, AsyncIterator, Dict, Iterator, List, Optional

import numpy as np
from numpy.typing import NDArray

from ekuiper import Column, Context, Function, Plugin, PluginConfig, Sink, Source, Stopped, plugin, testing


class PyJson(Source):
    def configure(self, datasource: str, conf: Dict[str, Any]) -> None:
        self.topic = datasource

    def open(self, ctx: Context) -> None:
        try:
            ctx.emit({"name": self.topic}, None)
            ctx.get_logger().info("emitted")
            hook = ctx.on_stop(lambda: None)
            with ctx.on_stop(print):
                assert ctx.sleep(1.5) and not ctx.is_stopped() and not ctx.is_cancelled()
            hook.take_back()
        except Stopped:
            pass

    def close(self, ctx: Context) -> None:
        pass


class PrintSink(Sink):
    def configure(self, conf: Dict[str, Any]) -> None:
        pass

    def open(self, ctx: Context) -> None:
        pass

    def collect(self, ctx: Context, data: Any) -> None:
        ctx.ack_err("no")

    def close(self, ctx: Context) -> None:
        pass


class Revert(Function):
    def validate(self, args: List[Any]) -> str:
        return ""

    def exec(self, args: List[Any], ctx: Context) -> Any:
        return args[0][::-1]

    def is_aggregate(self) -> bool:
        return False


app = Plugin("typed")


@app.function
def revert(text: str) -> str:
    return text[::-1]


@app.function(name="average", aggregate=True)
def mean(values: List[float]) -> float:
    return sum(values) / len(values)


@app.source
def ticks(interval: float = 1.0) -> Iterator[Dict[str, int]]:
    for number in itertools.count():
        yield {"number": number}


@app.source(name="later")
async def later(ctx: Context) -> AsyncIterator[Dict[str, int]]:
    yield {}


@app.sink
def print_row(row: Dict[str, Any], path: Optional[str] = None) -> None:
    print(row)


@app.function(columns=True, idempotent=True)
def double(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * 2


@app.source(columns=True)
def ramp(ctx: Context) -> Iterator[Dict[str, Any]]:
    ctx.emit_batch({"n": [1]})
    yield {"n": np.arange(3)}


@app.sink(columns=True)
def total(batch: Dict[str, Column]) -> None:
    print(batch["x"].to_list(), batch["x"].null_count, np.asarray(batch["x"]))


def checks() -> None:
    column: Column = testing.function(double, columns=True).call_columns(np.arange(3.0))
    testing.sink(total, columns=True).send_batch({"x": column})
    reversed_text: str = revert("a")
    average: float = mean([1.0])
    result: Any = testing.function(revert).call("a")
    with testing.source(ticks) as source:
        message, meta = source.take(1)[0]
    with testing.sink(print_row, require_ack=True) as sink:
        sink.send({})
        acks: List[Optional[str]] = sink.acks()


def main() -> None:
    lambdas = PluginConfig("pysam", {"pyjson": lambda: PyJson()}, {"print": lambda: PrintSink()}, {"revert": Revert})
    plugin.start(lambdas)
    app.run()
'''

WRONG = '''
from ekuiper import Plugin, PluginConfig

app = Plugin("typed")


@app.function
def revert(text: str) -> str:
    return text[::-1]


revert(7)
PluginConfig(7, {}, {}, {})
'''


def mypy(*arguments):
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", "/dev/null", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_package():
    checked = mypy("-p", "ekuiper")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    checked = mypy(str(program))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_wrong_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WRONG)
    checked = mypy(str(program))
    assert checked.stdout.count("error:") == 2, checked.stdout
    assert 'has incompatible type "int"' in checked.stdout
