"""The plugin and its start, named as in the official package."""

from __future__ import annotations

from .. import _serve
from ..function import Function
from ..sink import Sink
from ..source import Source
from . import shared

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping, Optional


class PluginConfig:
    """A plugin's name and its symbols: a factory for each symbol's name.

    `supervised` puts a supervisor process before the plugin: a crash costs a restart of its worker,
    not the rules. `version` is part of the plugin's description."""

    def __init__(
        self,
        name: str,
        sources: Optional[Mapping[str, Callable[[], Source]]] = None,
        sinks: Optional[Mapping[str, Callable[[], Sink]]] = None,
        functions: Optional[Mapping[str, Callable[[], Function]]] = None,
        *,
        supervised: bool = False,
        version: str = "",
    ) -> None:
        self.name = name
        self.sources = sources or {}
        self.sinks = sinks or {}
        self.functions = functions or {}
        self.supervised = supervised
        self.version = version

    def get(self, plugin_type: str, symbol_name: str) -> Any:
        """The factory of the symbol of this kind and name. Raises `KeyError` if there is none."""
        if plugin_type == shared.TYPE_SOURCE:
            return self.sources[symbol_name]
        if plugin_type == shared.TYPE_SINK:
            return self.sinks[symbol_name]
        if plugin_type == shared.TYPE_FUNC:
            return self.functions[symbol_name]
        return None


conf: PluginConfig


def start(c: PluginConfig) -> None:
    """Serves the engine that started this process, until the engine ends or stops the plugin, or
    until a signal or Ctrl-C. All symbols are closed when this returns. For the program's argument
    `--describe` it prints the plugin's description as a line of JSON."""
    global conf
    conf = c
    _serve.serve(c.name, c.sources, c.sinks, c.functions, supervised=c.supervised, version=c.version)


def init_vars(c: PluginConfig) -> None:
    """Sets `logging` up as `start` does: to stderr, unless the program has its own handlers."""
    _serve.set_up_log()


def command_reply(req: bytes) -> bytes:
    """Raises `RuntimeError`. In the official package this answers control commands; here the Rust
    core does, and tests run symbols with `ekuiper.testing`."""
    raise RuntimeError("the plugin's core answers control commands: run symbols with ekuiper.testing")
