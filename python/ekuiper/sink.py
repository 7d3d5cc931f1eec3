"""The class of sinks."""

from __future__ import annotations

from abc import abstractmethod

from .runtime.context import Context

# Not imported in vain: it takes a good part of a plugin's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict


class Sink(object):
    """Takes messages from the engine; each rule that uses it has its own."""

    @abstractmethod
    def configure(self, conf: Dict[str, Any]) -> None:
        """Take the configuration. An exception refuses the start, with its text."""

    @abstractmethod
    def open(self, ctx: Context) -> None:
        """Open what is written to. An exception refuses the start, with its text."""

    @abstractmethod
    def collect(self, ctx: Context, data: Any) -> None:
        """Take one message: `bytes`, normally JSON, a row or a list of rows. Where the rule says
        `requireAck`, call `ctx.ack_ok()` or `ctx.ack_err(text)`, here or later, once for each
        message and in their order."""

    @abstractmethod
    def close(self, ctx: Context) -> None:
        """Clean up, after the last message."""
