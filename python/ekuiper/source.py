"""The class of sources."""

from __future__ import annotations

from abc import abstractmethod

from .runtime.context import Context

# Not imported in vain: it takes a good part of a plugin's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict


class Source(object):
    """Gives rows to the engine; each rule that uses it has its own."""

    @abstractmethod
    def configure(self, datasource: str, conf: Dict[str, Any]) -> None:
        """Take the topic, which may be empty, and the configuration. An exception refuses the
        start, with its text."""

    @abstractmethod
    def open(self, ctx: Context) -> None:
        """Emit with `ctx` until the source is closed: `close` is called meanwhile, from another
        thread, and `ctx.emit` raises `Stopped` when that has returned. When this returns, the
        source is over."""

    @abstractmethod
    def close(self, ctx: Context) -> None:
        """End `open`, and clean up."""
