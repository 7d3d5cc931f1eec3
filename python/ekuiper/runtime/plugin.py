"""The plugin and its start, by the official package's names."""

from __future__ import annotations

from .. import _serve
from ..function import Function
from ..sink import Sink
from ..source import Source
from . import shared

# Not imported in vain: it takes a good part of a plugin's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping, Optional


class PluginConfig:
    """A plugin's name and its symbols: for each name something that makes the symbol.

    `supervised` puts a guard process before the plugin: a crash costs a restart of its worker, not
    the rules."""

    def __init__(
        self,
        name: str,
        sources: Optional[Mapping[str, Callable[[], Source]]] = None,
        sinks: Optional[Mapping[str, Callable[[], Sink]]] = None,
        functions: Optional[Mapping[str, Callable[[], Function]]] = None,
        *,
        supervised: bool = False,
    ) -> None:
        self.name = name
        self.sources = sources or {}
        self.sinks = sinks or {}
        self.functions = functions or {}
        self.supervised = supervised

    def get(self, plugin_type: str, symbol_name: str) -> Any:
        """What makes a symbol of this kind and name; `KeyError` where there is none."""
        if plugin_type == shared.TYPE_SOURCE:
            return self.sources[symbol_name]
        if plugin_type == shared.TYPE_SINK:
            return self.sinks[symbol_name]
        if plugin_type == shared.TYPE_FUNC:
            return self.functions[symbol_name]
        return None


conf: PluginConfig


def start(c: PluginConfig) -> None:
    """Serve the engine that has started this process, until it ends or ends the plugin: a signal,
    Ctrl-C, or its own end. All symbols are closed by then."""
    global conf
    conf = c
    _serve.serve(c.name, c.sources, c.sinks, c.functions, supervised=c.supervised)


def init_vars(c: PluginConfig) -> None:
    """Set `logging` up as `start` does: lines on stderr, unless the program has handlers of its
    own."""
    _serve.set_up_log()


def command_reply(req: bytes) -> bytes:
    """Upstream's answer to a control command. Here the Rust core answers them; a test runs its
    symbols with `ekuiper.testing`."""
    raise RuntimeError("commands are answered by the plugin's core: run symbols with ekuiper.testing")
