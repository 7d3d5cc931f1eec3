"""Portable plugins for eKuiper in Python.

The classes are those of the official package `ekuiper`, on a core in Rust; programs written for
the official package run unchanged::

    from ekuiper import Function, PluginConfig, plugin

    class Revert(Function):
        def validate(self, args):
            return "" if len(args) == 1 else "revert takes 1 argument"

        def exec(self, args, ctx):
            return args[0][::-1]

        def is_aggregate(self):
            return False

    if __name__ == "__main__":
        plugin.start(PluginConfig("pysam", {}, {}, {"revert": lambda: Revert()}))

The same with functions and annotations::

    from ekuiper import Plugin

    app = Plugin("pysam")

    @app.function
    def revert(text: str) -> str:
        return text[::-1]

    if __name__ == "__main__":
        app.run()

`ekuiper.testing` runs symbols in-process, for tests.
"""

from __future__ import annotations

import os as _os


def _refuse_official() -> None:
    """The official package has the same files: of two in one environment, neither is whole."""
    folder = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
    for entry in _os.listdir(folder):
        if entry.startswith("ekuiper-") and entry.endswith(".dist-info"):
            raise ImportError(
                "the official package ekuiper and ekuiper-rs are installed in one folder, %s, where they overwrite "
                "each other: run `pip uninstall ekuiper ekuiper-rs`, then `pip install` the one that is wanted" % folder
            )


_refuse_official()

from ekuiper._ekuiper import ArgumentError, Column, Stopped
from ekuiper.function import Function
from ekuiper.runtime import plugin
from ekuiper.runtime.context import Context
from ekuiper.runtime.plugin import PluginConfig
from ekuiper.sink import Sink
from ekuiper.source import Source

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


__all__ = [
    "plugin", "PluginConfig", "Source", "Sink", "Function", "Context",
    "Plugin", "Column", "Stopped", "ArgumentError",
]

name = "ekuiper"

if TYPE_CHECKING:
    from ekuiper._app import Plugin


def __getattr__(name: str) -> Any:
    # Imported on demand: programs with classes only need not load the reading of annotations.
    if name == "Plugin":
        from ekuiper._app import Plugin

        return Plugin
    raise AttributeError("module %r has no attribute %r" % (__name__, name))
