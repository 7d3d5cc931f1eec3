"""A plugin of functions, by decorators."""

from __future__ import annotations

import json
import os
import sys
from types import FrameType
from typing import Any, Callable, Dict, List, Optional, TypeVar, Union, overload

from . import _serve, _symbols

T = TypeVar("T", bound=Callable[..., Any])


class _Origin:
    """The file of a module that makes a `Plugin`."""

    def __init__(self, module: str, path: str) -> None:
        self._module = module
        self.path = os.path.abspath(path)

    def is_script(self) -> bool:
        """Whether an engine can run it: it is what this process runs, or looks whether it is."""
        if self._module == "__main__":
            return True
        try:
            with open(self.path, "rb") as file:
                return b"__main__" in file.read()
        except OSError:
            return False


def _script_of_the_caller() -> Optional[_Origin]:
    """Where a `Plugin` is made, apart from constructors of subclasses; none for what is in no
    file, as in an interactive session."""
    frame: Optional[FrameType] = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__init__":
        frame = frame.f_back
    path = frame.f_globals.get("__file__") if frame is not None else None
    return _Origin(frame.f_globals["__name__"], path) if frame is not None and path else None


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
        self._made_in = _script_of_the_caller()
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
        """Write the manifest that eKuiper wants beside the script, `<name>.json`, and return it.

        The script is the one that makes this `Plugin`, whoever calls this: the script itself, a
        test or an interactive session that imports it. Where that is a module that no engine can
        run, `executable` has to say which script does: a file beside it, unless `path` says where
        to write. Raises `RuntimeError` or `FileNotFoundError` where it is not known."""
        made_in = self._made_in
        if executable is None:
            if made_in is None or not made_in.is_script():
                raise RuntimeError(
                    "plugin %s is made in %s, so it is not known which script the engine is to run: "
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
                    'plugin %s is made in no file: say where to write, as in manifest(executable="%s", path="%s.json")'
                    % (self.name, executable, self.name)
                )
            folder = os.path.dirname(made_in.path)
            if not os.path.exists(os.path.join(folder, executable)):
                raise FileNotFoundError(
                    "there is no %s in %s: correct executable, or say by path where to write the manifest"
                    % (executable, folder)
                )
            path = os.path.join(folder, self.name + ".json")
        manifest = {
            "version": version,
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
        """Serve the engine that has started this process, until it ends or ends the plugin."""
        _serve.serve(
            self.name, self._sources, self._sinks, self._functions, self._idempotent, supervised=self.supervised
        )
