"""The conversion of types that JSON lacks into types that it has."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Set
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Callable, Dict, Iterable
from uuid import UUID


class Unsendable(TypeError):
    """Raised for a value of a type that has no conversion."""

    is_unsendable = True


class UnreadableField(Exception):
    """Raised for a field of a value that cannot be read; its cause is the reason."""

    def __init__(self, field: Any) -> None:
        super().__init__(field)
        self.unreadable_field = field


def _read(names: Iterable[Any], read: Callable[[Any], Any]) -> Dict[Any, Any]:
    """The fields of a value, each read by name."""
    fields = {}
    for name in names:
        try:
            fields[name] = read(name)
        except Exception as error:
            raise UnreadableField(name) from error
    return fields


def plain(value: Any) -> Any:
    """The value that is sent for another, by the guide's table of conversions. Raises `Unsendable`
    if there is none."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (Decimal, UUID, PurePath)):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Set):
        return list(value)
    if isinstance(value, Mapping):
        return _read(value, value.__getitem__)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _read((field.name for field in dataclasses.fields(value)), lambda name: getattr(value, name))
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise Unsendable("a value of type %s cannot be sent" % type(value).__name__)
