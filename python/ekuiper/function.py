"""The base class of functions."""

from __future__ import annotations

from abc import abstractmethod

from .runtime.context import Context

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List


class Function(object):
    """A function, which computes a value from its arguments; all rules share one instance."""

    @abstractmethod
    def validate(self, args: List[Any]) -> str:
        """Returns what is wrong with the arguments, or an empty string. The engine passes nodes of
        its syntax tree, not values: only their number is meaningful."""
        return ""

    @abstractmethod
    def exec(self, args: List[Any], ctx: Context) -> Any:
        """Computes the result of a call. An exception becomes the call's error, with its text."""

    @abstractmethod
    def is_aggregate(self) -> bool:
        """Whether each argument is the list of a window's values."""
        return False
