"""The class of contexts: what a symbol is given to work with."""

from __future__ import annotations

from abc import abstractmethod

# Not imported in vain: it takes a good part of a plugin's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from .._ekuiper import StopHook


class Context(object):
    """A symbol's place in a rule, and its way to the engine."""

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
        """The symbol's logger: a `logging.Logger` that is a file to write lines to, too."""
        raise NotImplementedError

    @abstractmethod
    def emit(self, message: Any, meta: Optional[Dict[str, Any]] = None) -> None:
        """Send a row, and facts about it, such as its topic, which a rule reads with `meta(…)`.
        Waits while the engine is slower. Raises `Stopped` once `close` has returned."""
        raise NotImplementedError

    @abstractmethod
    def emit_error(self, error: str) -> None:
        """Report an error to the engine; the source may go on after it."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> bool:
        """Wait in a source; false, at once, when it is stopped."""
        raise NotImplementedError

    def is_stopped(self) -> bool:
        """Whether the source is stopped."""
        raise NotImplementedError

    def on_stop(self, hook: Callable[[], object]) -> StopHook:
        """Have `hook` called, once, when the source is stopped, to end a wait that only it can
        end; from another thread, and at once where the source is stopped already. What is
        returned takes the hook back: by `take_back()`, or at the end of a `with` block. A source
        that connects again does that for each connection, and so keeps none of the former ones.
        When the source is over, all hooks are dropped."""
        raise NotImplementedError

    @abstractmethod
    def ack_ok(self) -> None:
        """Acknowledge the oldest message that is not acknowledged yet. Does nothing where the
        rule does not ask for it."""
        raise NotImplementedError

    @abstractmethod
    def ack_error(self, error: str) -> None:
        """Refuse that message, with a reason."""
        raise NotImplementedError

    def ack_err(self, error: str) -> None:
        """The same, by the name that eKuiper's guide gives it."""
        self.ack_error(error)
