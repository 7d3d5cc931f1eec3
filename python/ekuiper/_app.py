"""A plugin of functions, by decorators."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable, Dict, List, Optional, TypeVar, Union, overload

from . import _serve, _symbols

T = TypeVar("T", bound=Callable[..., Any])


class Plugin:
    """A plugin: its name, which is that of its manifest's file, and its symbols.

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

    Each of them may be `async`. A parameter that is annotated as `Context` gets the context.

    `supervised` puts a guard process before the plugin: a segmentation fault, `os._exit` or the
    out-of-memory killer cost a restart of its worker, not the rules. What the script does before
    it calls `run` is done in the guard's process too, before it becomes that.
    """

    def __init__(self, name: str, *, supervised: bool = False) -> None:
        self.name = name
        self.supervised = supervised
        self._sources: Dict[str, Callable[[], Any]] = {}
        self._sinks: Dict[str, Callable[[], Any]] = {}
        self._functions: Dict[str, Callable[[], Any]] = {}
        self._idempotent: List[str] = []

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
    ) -> Callable[[T], T]: ...

    def function(
        self,
        target: Optional[Callable[..., Any]] = None,
        /,
        *,
        name: Optional[str] = None,
        aggregate: Optional[bool] = None,
        idempotent: bool = False,
    ) -> Any:
        """Add a function. Its annotations say how many arguments it takes and of which types; it
        is an aggregate if all of them are lists, or if `aggregate` says so. One that is
        `idempotent` is executed once more when a supervised plugin's worker has died in it."""

        def add(target: T) -> T:
            symbol = name or target.__name__
            self._add("function", self._functions, symbol, _symbols.function_factory(symbol, target, aggregate))
            if idempotent:
                self._idempotent.append(symbol)
            return target

        return add if target is None else add(target)

    @overload
    def source(self, target: T, /) -> T: ...

    @overload
    def source(self, target: None = None, /, *, name: Optional[str] = None) -> Callable[[T], T]: ...

    def source(self, target: Optional[Callable[..., Any]] = None, /, *, name: Optional[str] = None) -> Any:
        """Add a source: a generator, each row of which is emitted; a row and its meta is a tuple.
        Its parameters are the configuration's fields, and `datasource`."""

        def add(target: T) -> T:
            symbol = name or target.__name__
            self._add("source", self._sources, symbol, _symbols.source_factory(symbol, target))
            return target

        return add if target is None else add(target)

    @overload
    def sink(self, target: T, /) -> T: ...

    @overload
    def sink(self, target: None = None, /, *, name: Optional[str] = None) -> Callable[[T], T]: ...

    def sink(self, target: Optional[Callable[..., Any]] = None, /, *, name: Optional[str] = None) -> Any:
        """Add a sink: a function that takes a row; all rows of a message, where its first
        parameter is a list; or the message as it is, where that is `bytes`. The other parameters
        are the configuration's fields. The message is acknowledged when the function returns,
        and refused when it raises."""

        def add(target: T) -> T:
            symbol = name or target.__name__
            self._add("sink", self._sinks, symbol, _symbols.sink_factory(symbol, target))
            return target

        return add if target is None else add(target)

    def _add(self, kind: str, symbols: Dict[str, Callable[[], Any]], name: str, factory: Callable[[], Any]) -> None:
        if name in symbols:
            raise ValueError("%s %s is added twice" % (kind, name))
        symbols[name] = factory

    def manifest(
        self, path: Union[str, "os.PathLike[str]", None] = None, *, version: str = "v1.0.0", executable: Optional[str] = None
    ) -> Dict[str, Any]:
        """Write the manifest that eKuiper wants beside the script, `<name>.json`, and return it."""
        script = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "main.py")
        manifest = {
            "version": version,
            "language": "python",
            "executable": executable or os.path.basename(script),
            "sources": list(self._sources),
            "sinks": list(self._sinks),
            "functions": list(self._functions),
        }
        where = os.path.join(os.path.dirname(script), self.name + ".json") if path is None else path
        with open(where, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2)
            file.write("\n")
        return manifest

    def run(self) -> None:
        """Serve the engine that has started this process, until it ends or ends the plugin."""
        _serve.serve(
            self.name, self._sources, self._sinks, self._functions, self._idempotent, supervised=self.supervised
        )
