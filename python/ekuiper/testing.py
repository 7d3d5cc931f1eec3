"""Tests of symbols in one process: a symbol's code runs on the same code paths as in production,
and its messages are decoded as an engine decodes them::

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

A failure raises `SymbolError`, with the text that the engine gets.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Dict, Iterator, List, Optional, Tuple, Type

from . import _ekuiper, _symbols
from ._ekuiper import Column, SymbolError

__all__ = ["function", "source", "sink", "FunctionTest", "SourceTest", "SinkTest", "SymbolError"]


def function(target: Any, *, aggregate: Optional[bool] = None, columns: bool = False) -> FunctionTest:
    """Creates a test of a function: a plain one, a `Function`, or its class. `columns` is that of
    `Plugin.function`, as for sources and sinks."""
    return FunctionTest(target, aggregate, columns)


def source(
    target: Any, *, datasource: str = "", config: Optional[Dict[str, Any]] = None, columns: bool = False
) -> SourceTest:
    """Starts a test of a source: a generator function, a `Source`, or its class. Of a batch it shows
    the rows."""
    return SourceTest(target, datasource, config or {}, columns)


def sink(
    target: Any, *, config: Optional[Dict[str, Any]] = None, require_ack: bool = False, columns: bool = False
) -> SinkTest:
    """Opens a test of a sink: a function, a `Sink`, or its class. `require_ack` corresponds to a
    rule's `requireAck`."""
    config = dict(config or {})
    if require_ack:
        config["requireAck"] = True
    return SinkTest(target, config, columns)


def _name(target: Any) -> str:
    return getattr(target, "__name__", type(target).__name__)


class FunctionTest:
    """A function under test."""

    def __init__(self, target: Any, aggregate: Optional[bool] = None, columns: bool = False) -> None:
        name = _name(target)
        self._test = _ekuiper.FunctionTest(name, _symbols.function_factory(name, target, aggregate, columns))

    def call(self, *args: Any) -> Any:
        """Calls the function, and returns its result as an engine reads it."""
        return self._test.call(list(args))

    def call_columns(self, *columns: Any) -> Column:
        """Calls the function with columns: NumPy arrays, arrays of an Arrow library, buffers, lists or
        `Column`s. Returns its result, which `to_list()` shows as values."""
        return self._test.call_columns(list(columns))

    def validate(self, *args: Any) -> None:
        """Raises `SymbolError` if the function does not take this number of arguments."""
        self._test.validate(list(args))

    def is_aggregate(self) -> bool:
        """Whether each argument is the list of a window's values."""
        return self._test.is_aggregate()


class SourceTest:
    """A running source under test: an iterator over the rows that it emits, each with its meta. An
    error that it emits is raised."""

    def __init__(self, target: Any, datasource: str, config: Dict[str, Any], columns: bool = False) -> None:
        name = _name(target)
        self._test = _ekuiper.SourceTest(name, _symbols.source_factory(name, target, columns), datasource, config)

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        return self

    def __next__(self) -> Tuple[Any, Any]:
        row = self._test.next()
        if row is None:
            raise StopIteration
        return row

    def take(self, count: int) -> List[Tuple[Any, Any]]:
        """The next `count` rows; fewer if the source ends earlier."""
        rows: List[Tuple[Any, Any]] = []
        while len(rows) < count:
            row = self._test.next()
            if row is None:
                break
            rows.append(row)
        return rows

    def stop(self) -> None:
        """Stops the source and waits until it has closed."""
        self._test.stop()

    def __enter__(self) -> SourceTest:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()


class SinkTest:
    """An open sink under test."""

    def __init__(self, target: Any, config: Dict[str, Any], columns: bool = False) -> None:
        name = _name(target)
        self._test = _ekuiper.SinkTest(name, _symbols.sink_factory(name, target, columns), config)

    def send(self, rows: Any) -> None:
        """Passes a message, a row or a list of rows, to the sink. Raises `SymbolError` if the sink
        fails, which its `acks` show as well."""
        self._test.send(rows)

    def send_batch(self, batch: Any) -> None:
        """Passes the rows of a batch, a dict of columns or a batch of an Arrow library, to a sink that
        takes columns."""
        self._test.send_batch(batch)

    def send_bytes(self, message: bytes) -> None:
        """Passes a raw message, JSON or not, to the sink."""
        self._test.send_bytes(message)

    def acks(self) -> List[Optional[str]]:
        """The acknowledgements since the last call: None for success, or the text of an error."""
        return self._test.acks()

    def close(self) -> None:
        """Closes the sink."""
        self._test.close()

    def __enter__(self) -> SinkTest:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
