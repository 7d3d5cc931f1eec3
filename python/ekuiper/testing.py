"""Runs any symbol in this process, for a test: the symbol's code runs on the same paths as in
production, and what it says is read as an engine reads it::

    from ekuiper import testing

    def test_revert():
        assert testing.function(revert).call("hello") == "olleh"

    def test_ticks():
        with testing.source(ticks, config={"interval": 0.01}) as source:
            assert source.take(2) == [({"number": 0}, None), ({"number": 1}, None)]

    def test_print_row():
        with testing.sink(print_row, require_ack=True) as sink:
            sink.send([{"a": 1}, {"a": 2}])
            assert sink.acks() == [None]

What fails raises `SymbolError`, whose text is what the engine gets.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Dict, Iterator, List, Optional, Tuple, Type

from . import _ekuiper, _symbols
from ._ekuiper import SymbolError

__all__ = ["function", "source", "sink", "FunctionTest", "SourceTest", "SinkTest", "SymbolError"]


def function(target: Any, *, aggregate: Optional[bool] = None) -> FunctionTest:
    """A function under test: a plain one, a `Function`, or its class."""
    return FunctionTest(target, aggregate)


def source(target: Any, *, datasource: str = "", config: Optional[Dict[str, Any]] = None) -> SourceTest:
    """A source under test, which runs: a generator function, a `Source`, or its class."""
    return SourceTest(target, datasource, config or {})


def sink(target: Any, *, config: Optional[Dict[str, Any]] = None, require_ack: bool = False) -> SinkTest:
    """A sink under test, which is open: a function, a `Sink`, or its class. `require_ack` is what
    a rule says by `requireAck`."""
    config = dict(config or {})
    if require_ack:
        config["requireAck"] = True
    return SinkTest(target, config)


def _name(target: Any) -> str:
    return getattr(target, "__name__", type(target).__name__)


class FunctionTest:
    """A function under test."""

    def __init__(self, target: Any, aggregate: Optional[bool] = None) -> None:
        name = _name(target)
        self._test = _ekuiper.FunctionTest(name, _symbols.function_factory(name, target, aggregate))

    def call(self, *args: Any) -> Any:
        """Its result, as an engine reads it."""
        return self._test.call(list(args))

    def validate(self, *args: Any) -> None:
        """Raises where it does not take so many arguments."""
        self._test.validate(list(args))

    def is_aggregate(self) -> bool:
        """Whether each argument is the list of a window's values."""
        return self._test.is_aggregate()


class SourceTest:
    """A source under test: iterates over the rows that it emits, each with its meta. An error
    that it emits is raised."""

    def __init__(self, target: Any, datasource: str, config: Dict[str, Any]) -> None:
        name = _name(target)
        self._test = _ekuiper.SourceTest(name, _symbols.source_factory(name, target), datasource, config)

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        return self

    def __next__(self) -> Tuple[Any, Any]:
        row = self._test.next()
        if row is None:
            raise StopIteration
        return row

    def take(self, count: int) -> List[Tuple[Any, Any]]:
        """The next rows; fewer where it is over before."""
        rows: List[Tuple[Any, Any]] = []
        while len(rows) < count:
            row = self._test.next()
            if row is None:
                break
            rows.append(row)
        return rows

    def stop(self) -> None:
        """Stops it, and waits until it has closed."""
        self._test.stop()

    def __enter__(self) -> SourceTest:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()


class SinkTest:
    """A sink under test."""

    def __init__(self, target: Any, config: Dict[str, Any]) -> None:
        name = _name(target)
        self._test = _ekuiper.SinkTest(name, _symbols.sink_factory(name, target), config)

    def send(self, rows: Any) -> None:
        """Gives it a message, a row or a list of rows. Raises `SymbolError` where the sink fails or
        refuses it, which is among its `acks` as well."""
        self._test.send(rows)

    def send_bytes(self, message: bytes) -> None:
        """Gives it a message as it is, JSON or not."""
        self._test.send_bytes(message)

    def acks(self) -> List[Optional[str]]:
        """The acknowledgements since the last call: None, or the text of a refusal."""
        return self._test.acks()

    def close(self) -> None:
        """Closes it."""
        self._test.close()

    def __enter__(self) -> SinkTest:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
