"""The base class of contexts, by which symbols reach the engine."""

from __future__ import annotations

from abc import abstractmethod

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from .._ekuiper import StopHook


class Context(object):
    """The context of a symbol: its rule instance, and its channel to the engine."""

    @abstractmethod
    def get_rule_id(self) -> str:
        """The rule's id."""
        raise NotImplementedError

    @abstractmethod
    def get_op_id(self) -> str:
        """The operator's id within the rule."""
        raise NotImplementedError

    @abstractmethod
    def get_instance_id(self) -> int:
        """The operator's instance, from 0."""
        raise NotImplementedError

    @abstractmethod
    def get_logger(self) -> Any:
        """The symbol's logger: a `logging.Logger` that is also a writable text file."""
        raise NotImplementedError

    @abstractmethod
    def emit(self, message: Any, meta: Optional[Dict[str, Any]] = None) -> None:
        """Sends a row and its metadata, such as its topic, which a rule reads with `meta(…)`.
        Blocks while the engine is slower. Raises `Stopped` once `close` has returned."""
        raise NotImplementedError

    def emit_batch(self, batch: Any) -> None:
        """Sends a batch of rows: a dict of columns, or a batch of an Arrow library; all batches of a
        stream. Only the host of this project reads batches as they are; other engines get a row for each
        row of it. Otherwise as `emit`."""
        raise NotImplementedError

    @abstractmethod
    def emit_error(self, error: str) -> None:
        """Reports an error to the engine; the source may continue after it."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> bool:
        """Sleeps in a source, and returns true; returns false as soon as the source is stopped."""
        raise NotImplementedError

    def is_stopped(self) -> bool:
        """Whether the source has been stopped."""
        raise NotImplementedError

    def on_stop(self, hook: Callable[[], object]) -> StopHook:
        """Registers a hook that unblocks a source which blocks in its own I/O. The hook is called
        once, from another thread, when the source is stopped; immediately if the source is
        already stopped. The returned `StopHook` unregisters it, by `take_back()` or at the end of
        a `with` block. A source that reconnects registers one hook per connection, and so keeps
        none of the former ones. When the source has ended, all hooks are dropped."""
        raise NotImplementedError

    def is_cancelled(self) -> bool:
        """In a function: whether nothing waits for the result of the call that it executes any
        more. A function that takes long asks now and then, and returns early or raises; what
        comes of it is discarded. Only the host of this project cancels calls; under eKuiper, in a
        supervised plugin, and in sources and sinks this is always false."""
        raise NotImplementedError

    @abstractmethod
    def ack_ok(self) -> None:
        """Acknowledges the oldest message that is not acknowledged yet. Does nothing if the rule
        does not ask for acknowledgements."""
        raise NotImplementedError

    @abstractmethod
    def ack_error(self, error: str) -> None:
        """Acknowledges the oldest message as failed, with a reason for the engine."""
        raise NotImplementedError

    def ack_err(self, error: str) -> None:
        """An alias of `ack_error`, by the name in eKuiper's guide."""
        self.ack_error(error)
