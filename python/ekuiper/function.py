"""The class of functions."""

from __future__ import annotations

from abc import abstractmethod

from .runtime.context import Context

# Not imported in vain: it takes a good part of a plugin's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List


class Function(object):
    """Computes a value from values; there is one for all rules."""

    @abstractmethod
    def validate(self, args: List[Any]) -> str:
        """Say what is wrong with these arguments, or return an empty text. The engine passes the
        nodes of its syntax tree, not values: only their number says anything."""
        return ""

    @abstractmethod
    def exec(self, args: List[Any], ctx: Context) -> Any:
        """Compute. An exception is the call's error, with its text."""

    @abstractmethod
    def is_aggregate(self) -> bool:
        """Say whether each argument is the list of a window's values."""
        return False
