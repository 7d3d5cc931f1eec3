"""Plain functions as symbols, wrapped in the official classes."""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Dict, List, Optional, Tuple

from . import _ekuiper
from ._annotations import Kind, Parameters, scalar_name
from ._ekuiper import ArgumentError, Stopped
from .function import Function
from .runtime.context import Context
from .sink import Sink
from .source import Source

if TYPE_CHECKING:
    import asyncio

    from ._loops import Loop


class Awaited:
    """A function that runs an asynchronous one and waits for its result."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._loop: Optional[Loop] = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._loop is None:
            # Imported on demand: `asyncio` takes as long to load as everything else.
            from ._loops import Loop

            self._loop = Loop(self._name)
        return self._loop.run(self._function(*args, **kwargs))

    def close(self) -> None:
        """Cancels the tasks that calls have left."""
        if self._loop is not None:
            self._loop.close()


def awaited(name: str, function: Any) -> Callable[..., Any]:
    """A function, wrapped in `Awaited` if it is asynchronous."""
    called = getattr(function, "__call__", None)
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
    return Awaited(name, function) if is_async else function


class Factory:
    """The factory of a symbol whose code is a plain function, with what describes it."""

    def __init__(
        self,
        make: Callable[[], Any],
        target: Any,
        parameters: Parameters,
        aggregate: bool = False,
        columnar: bool = False,
        rows: bool = False,
    ) -> None:
        self._make = make
        self.plain = (target, parameters)
        self.aggregate = aggregate
        self.columnar = columnar
        self.rows = rows

    def __call__(self) -> Any:
        return self._make()


def _refuse_columns(what: str, target: Any) -> None:
    """Of what is no plain function, nobody knows what it takes."""
    if isinstance(target, (Function, Source, Sink)) or isinstance(target, type):
        raise TypeError("%s: columns=True is for functions, not for classes" % what)


def function_factory(
    name: str, target: Any, aggregate: Optional[bool] = None, columns: bool = False
) -> Callable[[], Any]:
    """The factory of a function, from a class, an object or a plain function."""
    if columns:
        return _columnar_factory(name, target, aggregate)
    if isinstance(target, type) and issubclass(target, Function):
        return target
    if isinstance(target, Function):
        return lambda: target
    parameters = Parameters(target)
    listed = _by_position(name, parameters)
    kinds = [kind for _, kind in listed] + ([parameters.rest] if parameters.rest else [])
    inferred = aggregate is None and bool(kinds) and all(kind[0] == "list" for kind in kinds)
    context = parameters.context
    signature = _ekuiper.Signature(
        name,
        awaited(name, target),
        listed,
        parameters.required,
        parameters.rest,
        (context.name, context.place) if context else None,
        aggregate or inferred,
        inferred,
        result=scalar_name(parameters.result) or "any",
    )
    return Factory(lambda: signature, target, parameters, aggregate or inferred)


def _by_position(name: str, parameters: Parameters) -> List[Tuple[str, Kind]]:
    """The names and kinds of a function's parameters, which must have positions."""
    keyword_only = [parameter.name for parameter in parameters.listed if parameter.keyword_only]
    if keyword_only:
        raise TypeError(
            "function %s: %s is keyword-only, but an engine passes arguments by position"
            % (name, ", ".join(keyword_only))
        )
    return [(parameter.name, parameter.kind) for parameter in parameters.listed]


def _columnar_factory(name: str, target: Any, aggregate: Optional[bool]) -> Callable[[], Any]:
    """The factory of a columnar function."""
    from ._columns import ColumnarFunction, type_of

    _refuse_columns("function %s" % name, target)
    if aggregate:
        raise TypeError("function %s: an aggregate takes no columns" % name)
    parameters = Parameters(target, sys.maxsize)
    context = parameters.context
    signature = _ekuiper.Signature(
        name,
        ColumnarFunction(name, awaited(name, target), parameters),
        _by_position(name, parameters),
        parameters.required,
        parameters.rest,
        (context.name, context.place) if context else None,
        columnar=True,
        result=type_of(parameters.result)["type"],
    )
    return Factory(lambda: signature, target, parameters, columnar=True)


def _configured(what: str, parameters: Parameters, taken: int, conf: Dict[str, Any], known: Dict[str, Any]) -> Dict[str, Any]:
    """The arguments from a configuration, for the parameters from index `taken` on."""
    arguments: Dict[str, Any] = {}
    listed = parameters.listed[taken:]
    for parameter in listed:
        if parameter.name in conf:
            try:
                arguments[parameter.name] = _ekuiper.check(parameter.kind, conf[parameter.name])
            except ArgumentError as error:
                raise ArgumentError("%s: config field %s: %s" % (what, parameter.name, error)) from None
        elif parameter.name in known:
            arguments[parameter.name] = known[parameter.name]
        elif parameter.required:
            raise ArgumentError("%s: config field %s is missing" % (what, parameter.name))
    if parameters.further:
        names = {parameter.name for parameter in parameters.listed}
        arguments.update({name: value for name, value in conf.items() if name not in names})
    return arguments


def source_factory(name: str, target: Any, columns: bool = False) -> Callable[[], Source]:
    """The factory of a source, from a class, an object or a generator function."""
    if columns:
        _refuse_columns("source %s" % name, target)
    if isinstance(target, type) and issubclass(target, Source):
        return target
    if isinstance(target, Source):
        return lambda: target
    parameters = Parameters(target)
    emit = _emit_batch if columns else _emit
    return Factory(lambda: GeneratorSource(name, target, parameters, emit), target, parameters)


class GeneratorSource(Source):
    """A source whose rows, or batches, a generator function yields. The function may be asynchronous,
    or yield nothing and emit with its context."""

    def __init__(
        self, name: str, target: Callable[..., Any], parameters: Parameters, emit: Callable[[Context, Any], None]
    ) -> None:
        self._name = name
        self._emit = emit
        self._target = target
        self._parameters = parameters
        self._arguments: Dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._task: Optional[Tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = None

    def configure(self, datasource: str, conf: Dict[str, Any]) -> None:
        what = "source %s" % self._name
        self._arguments = _configured(what, self._parameters, 0, conf, {"datasource": datasource})

    def open(self, ctx: Context) -> None:
        if self._parameters.context:
            self._arguments[self._parameters.context.name] = ctx
        in_order, by_name = self._parameters.bind(self._arguments)
        made: Any = self._target(*in_order, **by_name)
        if inspect.isasyncgen(made):
            self._run(self._emit_async(ctx, made))
        elif inspect.iscoroutine(made):
            self._run(made)
        elif inspect.isgenerator(made):
            with contextlib.closing(made), contextlib.suppress(Stopped):
                for row in made:
                    self._emit(ctx, row)
        elif made is not None and not callable(getattr(made, "__next__", None)):
            raise TypeError(
                "source %s returned %s: make it a generator, which yields rows" % (self._name, type(made).__name__)
            )
        elif made is not None:
            for row in made:
                self._emit(ctx, row)

    def close(self, ctx: Context) -> None:
        with self._lock:
            self._closed = True
            task = self._task
        if task is not None:
            # The loop may be closed meanwhile.
            with contextlib.suppress(RuntimeError):
                task[0].call_soon_threadsafe(task[1].cancel)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        import asyncio

        from ._loops import finish

        loop = asyncio.new_event_loop()
        task = loop.create_task(coroutine)
        with self._lock:
            self._task = (loop, task)
            if self._closed:
                task.cancel()
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            if not self._closed:
                raise
        finally:
            with self._lock:
                self._task = None
            finish(loop, self._name)

    async def _emit_async(self, ctx: Context, rows: Any) -> None:
        import asyncio

        try:
            async for row in rows:
                self._emit(ctx, row)
                # Let the loop handle a stop and other tasks.
                await asyncio.sleep(0)
        except Stopped:
            pass
        finally:
            await rows.aclose()


def _emit(ctx: Context, row: Any) -> None:
    if type(row) is tuple:
        if len(row) != 2:
            raise TypeError("a source yields a row, or a row and its meta: a tuple of 2, not of %d" % len(row))
        ctx.emit(row[0], row[1])
    else:
        ctx.emit(row, None)


def _emit_batch(ctx: Context, batch: Any) -> None:
    ctx.emit_batch(batch)


def sink_factory(name: str, target: Any, columns: bool = False) -> Callable[[], Sink]:
    """The factory of a sink, from a class, an object or a function."""
    if columns:
        _refuse_columns("sink %s" % name, target)
    if isinstance(target, type) and issubclass(target, Sink):
        return target
    if isinstance(target, Sink):
        return lambda: target
    parameters = Parameters(target, int(columns))
    if not parameters.listed:
        raise TypeError("sink %s: its function must have a parameter that takes a row" % name)
    if not columns:
        rows = parameters.listed[0].kind != "bytes"
        return Factory(lambda: RowSink(name, target, parameters), target, parameters, rows=rows)
    from ._columns import batch_taker

    take = batch_taker("sink %s" % name, parameters.listed[0])
    return Factory(lambda: ColumnarSink(name, target, parameters, take), target, parameters, columnar=True, rows=True)


class FunctionSink(Sink):
    """A sink whose function takes what a message holds. The message is acknowledged when the function
    returns, and as failed when it raises."""

    _automatic_acks = True

    def __init__(self, name: str, target: Callable[..., Any], parameters: Parameters) -> None:
        self._name = name
        self._function = awaited(name, target)
        self._parameters = parameters
        self._first = parameters.listed[0]
        self._arguments: Dict[str, Any] = {}

    def configure(self, conf: Dict[str, Any]) -> None:
        self._arguments = _configured("sink %s" % self._name, self._parameters, 1, conf, {})

    def open(self, ctx: Context) -> None:
        if self._parameters.context:
            self._arguments[self._parameters.context.name] = ctx

    def _take(self, first: Any) -> None:
        in_order, by_name = self._parameters.bind({**self._arguments, self._first.name: first})
        self._function(*in_order, **by_name)

    def _call(self) -> Tuple[Callable[..., Any], Dict[str, Any]]:
        """What is called with the first parameter's argument, and the arguments by name."""
        if self._parameters.comes_first(self._first):
            return self._function, self._arguments
        return self._take, {}

    def close(self, ctx: Context) -> None:
        if isinstance(self._function, Awaited):
            self._function.close()


class RowSink(FunctionSink):
    """A sink whose function takes a row, or, by its annotation, a list of rows or the raw bytes.
    Messages are passed to `_taker`."""

    def open(self, ctx: Context) -> None:
        super().open(ctx)
        self._taker = _ekuiper.RowTaker(self._name, self._first.name, self._first.kind, *self._call())

    def collect(self, ctx: Context, data: Any) -> None:
        raise NotImplementedError("the module passes messages to _taker")


class ColumnarSink(FunctionSink):
    """A sink whose function takes a batch."""

    _columnar = True

    def __init__(
        self, name: str, target: Callable[..., Any], parameters: Parameters, take: Callable[[Any], Any]
    ) -> None:
        super().__init__(name, target, parameters)
        self._batch_of = take

    def collect(self, ctx: Context, data: Any) -> None:
        function, arguments = self._call()
        function(self._batch_of(data), **arguments)
