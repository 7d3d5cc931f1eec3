"""The class `Plugin`, which makes symbols of functions by decorators."""

from __future__ import annotations

import json
import os
import sys
from types import FrameType
from typing import Any, Callable, Dict, Optional, TypeVar, Union, overload

from . import _ekuiper, _serve, _symbols

T = TypeVar("T", bound=Callable[..., Any])


class _Origin:
    """The file of the module that creates a `Plugin`."""

    def __init__(self, module: str, path: str) -> None:
        self._module = module
        self.path = os.path.abspath(path)

    def is_script(self) -> bool:
        """Whether an engine can run the file: it is this process's script, or mentions `__main__`."""
        if self._module == "__main__":
            return True
        try:
            with open(self.path, "rb") as file:
                return b"__main__" in file.read()
        except OSError:
            return False


def _script_of_the_caller() -> Optional[_Origin]:
    """The file that creates a `Plugin`, skipping constructors of subclasses; None for code that is
    in no file, as in an interactive session."""
    frame: Optional[FrameType] = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__init__":
        frame = frame.f_back
    path = frame.f_globals.get("__file__") if frame is not None else None
    return _Origin(frame.f_globals["__name__"], path) if frame is not None and path else None


class Plugin:
    """A plugin: its name, which is also that of its manifest's file, and its symbols.

    ::

        app = Plugin("pysam")

        @app.function
        def revert(text: str) -> str:
            return text[::-1]

        @app.function
        def mean(values: list[float]) -> float:     # a list: an aggregate
            return sum(values) / len(values)

        @app.source
        def ticks(interval: float = 1.0):           # the configuration's fields
            for number in itertools.count():
                yield {"number": number}
                time.sleep(interval)

        @app.sink
        def print_row(row: dict):                   # acknowledged when it returns
            print(row)

        if __name__ == "__main__":
            app.run()

    Each of these functions may be `async`. A parameter annotated as `Context` gets the context.

    `supervised` puts a supervisor process before the plugin: a segmentation fault, `os._exit` or
    the out-of-memory killer costs a restart of its worker, not the rules. Code that the script
    executes before `run` is executed in both processes.
    """

    def __init__(self, name: str, *, version: str = "v1.0.0", supervised: bool = False) -> None:
        self.name = name
        self.version = version
        self.supervised = supervised
        self._made_in = _script_of_the_caller()
        self._sources: Dict[str, Callable[[], Any]] = {}
        self._sinks: Dict[str, Callable[[], Any]] = {}
        self._functions: Dict[str, Callable[[], Any]] = {}
        self._declared: Dict[str, Dict[str, Any]] = {}

    @overload
    def function(self, target: T, /) -> T: ...

    @overload
    def function(
        self,
        target: None = None,
        /,
        *,
        name: Optional[str] = None,
        aggregate: Optional[bool] = None,
        idempotent: bool = False,
        parallel: bool = False,
        volatility: Optional[str] = None,
        example: str = "",
        columns: bool = False,
    ) -> Callable[[T], T]: ...

    def function(
        self,
        target: Optional[Callable[..., Any]] = None,
        /,
        *,
        name: Optional[str] = None,
        aggregate: Optional[bool] = None,
        idempotent: bool = False,
        parallel: bool = False,
        volatility: Optional[str] = None,
        example: str = "",
        columns: bool = False,
    ) -> Any:
        """Adds a function, whose annotations give the number and types of its arguments. It is an
        aggregate if all of them are lists, or if `aggregate` is true. A call of an `idempotent`
        function is retried once after a crash of a supervised plugin's worker. A `parallel` function
        keeps no state between calls, so that an engine may distribute them over several instances
        of the plugin. `volatility` says when equal arguments have equal results: always, if
        `immutable`; within one query, if `stable`; or not, if `volatile`. `example` shows a call. With
        `columns` the function takes and returns columns, thousands of rows in one call: NumPy arrays,
        arrays of pyarrow, series of polars, buffers, lists or `Column`s, by its annotations."""
        if volatility not in (None, "immutable", "stable", "volatile"):
            raise ValueError("volatility is %r: use immutable, stable or volatile" % volatility)

        def add(target: T) -> T:
            symbol = name or target.__name__
            self._add("function", self._functions, symbol, _symbols.function_factory(symbol, target, aggregate, columns))
            says = {"idempotent": idempotent, "parallel": parallel, "volatility": volatility, "example": example}
            self._declared[symbol] = {key: value for key, value in says.items() if value}
            return target

        return add if target is None else add(target)

    @overload
    def source(self, target: T, /) -> T: ...

    @overload
    def source(
        self, target: None = None, /, *, name: Optional[str] = None, columns: bool = False
    ) -> Callable[[T], T]: ...

    def source(
        self, target: Optional[Callable[..., Any]] = None, /, *, name: Optional[str] = None, columns: bool = False
    ) -> Any:
        """Adds a source: a generator function, each yielded row of which is emitted. To emit
        metadata, yield a tuple of a row and its meta. The parameters are the configuration's
        fields, and `datasource`. With `columns` it yields batches: dicts of columns, or batches of an
        Arrow library."""

        def add(target: T) -> T:
            symbol = name or target.__name__
            self._add("source", self._sources, symbol, _symbols.source_factory(symbol, target, columns))
            return target

        return add if target is None else add(target)

    @overload
    def sink(self, target: T, /) -> T: ...

    @overload
    def sink(
        self, target: None = None, /, *, name: Optional[str] = None, columns: bool = False
    ) -> Callable[[T], T]: ...

    def sink(
        self, target: Optional[Callable[..., Any]] = None, /, *, name: Optional[str] = None, columns: bool = False
    ) -> Any:
        """Adds a sink: a function that takes a row; all rows of a message, if its first parameter
        is a list; or the raw message, if that is `bytes`. The other parameters are the
        configuration's fields. The message is acknowledged when the function returns, and
        acknowledged as failed when it raises. With `columns` it takes the rows of a message as a batch: a
        dict of columns, or a batch of an Arrow library, by its annotation."""

        def add(target: T) -> T:
            symbol = name or target.__name__
            self._add("sink", self._sinks, symbol, _symbols.sink_factory(symbol, target, columns))
            return target

        return add if target is None else add(target)

    def _add(self, kind: str, symbols: Dict[str, Callable[[], Any]], name: str, factory: Callable[[], Any]) -> None:
        if name in symbols:
            raise ValueError("%s %s is added twice" % (kind, name))
        symbols[name] = factory

    def manifest(
        self, path: Union[str, "os.PathLike[str]", None] = None, *, version: Optional[str] = None, executable: Optional[str] = None
    ) -> Dict[str, Any]:
        """Writes the manifest that eKuiper requires beside the script, `<name>.json`, and returns it.

        The script is the file that creates this `Plugin`, no matter whether the script itself, a
        test or an interactive session calls this. If an engine cannot run that file, `executable`
        must name the script: a file in the same folder, unless `path` names the manifest. Raises
        `RuntimeError` or `FileNotFoundError` if the script is unknown."""
        made_in = self._made_in
        if executable is None:
            if made_in is None or not made_in.is_script():
                raise RuntimeError(
                    "plugin %s is created in %s, so the script for the engine to run is unknown: "
                    'name it, as in manifest(executable="%s.py"%s)'
                    % (
                        self.name,
                        made_in.path if made_in else "no file",
                        self.name,
                        "" if made_in else ', path="%s.json"' % self.name,
                    )
                )
            executable = os.path.basename(made_in.path)
        if path is None:
            if made_in is None:
                raise RuntimeError(
                    'plugin %s is created in no file: name the manifest, as in '
                    'manifest(executable="%s", path="%s.json")'
                    % (self.name, executable, self.name)
                )
            folder = os.path.dirname(made_in.path)
            if not os.path.exists(os.path.join(folder, executable)):
                raise FileNotFoundError(
                    "there is no %s in %s: correct executable, or name the manifest's file with path"
                    % (executable, folder)
                )
            path = os.path.join(folder, self.name + ".json")
        manifest = {
            "version": self.version if version is None else version,
            "language": "python",
            "executable": executable,
            "sources": list(self._sources),
            "sinks": list(self._sinks),
            "functions": list(self._functions),
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2)
            file.write("\n")
        return manifest

    def run(self) -> None:
        """Serves the engine that started this process, until the engine ends or stops the plugin. For
        the program's argument `--describe`, prints the plugin's description as a line of JSON."""
        symbols = self._sources, self._sinks, self._functions
        _serve.serve(self.name, *symbols, self._declared, supervised=self.supervised, version=self.version)

    def describe(self) -> Dict[str, Any]:
        """What the plugin says about itself: its symbols, their types and their configuration."""
        from . import _describe

        symbols = self._sources, self._sinks, self._functions
        described = _describe.describe(self.name, self.version, *symbols, self._declared)
        return dict(_ekuiper.loads(described))
