"""What the annotations of a function say about its parameters."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from .runtime.context import Context

try:
    from types import UnionType
except ImportError:  # Python 3.9 has no `int | str`.
    UnionType = None  # type: ignore[assignment, misc]

Kind = Union[str, Tuple[Any, ...]]
"""A name of `Kind` in src/value/kind.rs, or a tuple of one and the kinds that it holds."""

_SCALARS: Dict[Any, str] = {
    Any: "any",
    object: "any",
    inspect.Parameter.empty: "any",
    None: "null",
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
}

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Parameter:
    """A parameter of a symbol's function."""

    def __init__(self, parameter: inspect.Parameter, kind: Kind) -> None:
        self.name = parameter.name
        self.kind = kind
        self.required = parameter.default is inspect.Parameter.empty


class Parameters:
    """The parameters of a symbol's function, without the one that takes the context."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.listed: List[Parameter] = []
        self.rest: Optional[Kind] = None
        """What `*args` holds."""
        self.further = False
        """Whether there is a `**kwargs`."""
        self.context: Optional[str] = None
        where = getattr(function, "__qualname__", repr(function))
        try:
            hints = typing.get_type_hints(function)
        except NameError as error:
            raise TypeError("%s: an annotation cannot be understood: %s" % (where, error)) from None
        for name, parameter in inspect.signature(function).parameters.items():
            annotation = hints.get(name, parameter.annotation)
            if isinstance(annotation, type) and issubclass(annotation, Context):
                if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                    raise TypeError("%s: the context is passed by name: put it after the /" % where)
                self.context = name
                continue
            try:
                kind = kind_of(annotation)
            except TypeError as error:
                raise TypeError("%s: parameter %s: %s" % (where, name, error)) from None
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                self.rest = kind
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self.further = True
            else:
                self.listed.append(Parameter(parameter, kind))

    @property
    def required(self) -> int:
        """How many have no default."""
        return sum(parameter.required for parameter in self.listed)


def kind_of(annotation: Any) -> Kind:
    """What an annotation stands for; `TypeError` where it is no type of a message."""
    try:
        scalar = _SCALARS.get(annotation)
    except TypeError:  # It cannot be hashed.
        scalar = None
    if scalar is not None:
        return scalar
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Union or (UnionType is not None and origin is UnionType):
        return ("union",) + tuple(kind_of(argument) for argument in arguments)
    if origin is getattr(typing, "Annotated", Ellipsis):
        return kind_of(arguments[0])
    plain = origin or annotation
    if plain in _LISTS:
        return ("list",) + tuple(kind_of(argument) for argument in arguments[:1] if not _free(argument))
    if plain in _DICTS:
        return ("dict",) + tuple(kind_of(argument) for argument in arguments[1:2] if not _free(argument))
    if isinstance(annotation, type) and typing.is_typeddict(annotation) if hasattr(typing, "is_typeddict") else False:
        return ("dict",)
    name = getattr(annotation, "__name__", None) or repr(annotation)
    raise TypeError(
        "%s is no type of a message: use str, int, float, bool, bytes, list, dict, Optional or Any" % name
    )


def _free(argument: Any) -> bool:
    return isinstance(argument, typing.TypeVar)
