"""The base class of sinks."""

from __future__ import annotations

from abc import abstractmethod

from . import _settings
from .runtime.context import Context

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict


class Sink(object):
    """A sink, which collects messages from the engine; each rule that uses it has its own
    instance."""

    def __init_subclass__(cls, **further: Any) -> None:
        super().__init_subclass__(**further)
        _settings.adapt(cls)

    @abstractmethod
    def configure(self, conf: Dict[str, Any]) -> None:
        """Receives the configuration. An exception refuses the start, with its text."""

    @abstractmethod
    def open(self, ctx: Context) -> None:
        """Opens the sink's destination. An exception refuses the start, with its text."""

    @abstractmethod
    def collect(self, ctx: Context, data: Any) -> None:
        """Collects one message: `bytes`, normally JSON, a row or a list of rows. If the rule sets
        `requireAck`, call `ctx.ack_ok()` or `ctx.ack_err(text)`, here or later, once for each
        message and in order."""

    @abstractmethod
    def close(self, ctx: Context) -> None:
        """Cleans up, after the last message."""
