"""The base class of sources."""

from __future__ import annotations

from abc import abstractmethod

from . import _settings
from .runtime.context import Context

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict


class Source(object):
    """A source, which emits rows to the engine; each rule that uses it has its own instance."""

    def __init_subclass__(cls, **further: Any) -> None:
        super().__init_subclass__(**further)
        _settings.adapt(cls)

    @abstractmethod
    def configure(self, datasource: str, conf: Dict[str, Any]) -> None:
        """Receives the topic, which may be empty, and the configuration. An exception refuses the
        start, with its text."""

    @abstractmethod
    def open(self, ctx: Context) -> None:
        """Emits with `ctx` until the source is closed: `close` is called concurrently, from another
        thread, and `ctx.emit` raises `Stopped` once `close` has returned. The source ends when
        this returns."""

    @abstractmethod
    def close(self, ctx: Context) -> None:
        """Makes `open` return, and cleans up."""
