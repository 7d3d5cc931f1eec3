"""The parameters of a function, and their kinds by its annotations."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Union

from .runtime.context import Context

try:
    from types import UnionType
except ImportError:  # Python 3.9 has no `int | str`.
    UnionType = None  # type: ignore[assignment, misc]

Kind = Union[str, Tuple[Any, ...]]
"""The name of a `Kind` in src/value/kind.rs, or a tuple of such a name and the kinds that it holds."""

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

_NAMES: Dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "string", bytes: "bytes"}
"""The names of scalar types in descriptions."""

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Parameter:
    """A parameter of a symbol's function."""

    def __init__(self, parameter: inspect.Parameter, annotation: Any, kind: Kind) -> None:
        self.name = parameter.name
        self.annotation = annotation
        self.kind = kind
        self.default = parameter.default
        self.required = parameter.default is inspect.Parameter.empty
        self.keyword_only = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        self.positional_only = parameter.kind is inspect.Parameter.POSITIONAL_ONLY


class ContextParameter:
    """The parameter that takes the context."""

    def __init__(self, parameter: inspect.Parameter, place: int) -> None:
        self.name = parameter.name
        self.positional_only = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        self.place: Optional[int] = None if parameter.kind is inspect.Parameter.KEYWORD_ONLY else place
        """The number of parameters before the context; None if it is keyword-only."""


class Parameters:
    """The parameters of a symbol's function, without the context parameter. The first `columns` of them take
    columns, which are of any kind here."""

    def __init__(self, function: Callable[..., Any], columns: int = 0) -> None:
        self.listed: List[Parameter] = []
        self.rest: Optional[Kind] = None
        """The kind of `*args`."""
        self.rest_parameter: Optional[Parameter] = None
        self.result: Any = inspect.Parameter.empty
        """The annotation of the result."""
        self.further = False
        """Whether the function has `**kwargs`."""
        self.context: Optional[ContextParameter] = None
        self._signature = inspect.signature(function)
        parameters = list(self._signature.parameters.values())
        others_by_name = not any(other.kind is inspect.Parameter.POSITIONAL_ONLY for other in parameters[1:])
        may_be_first = parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY and others_by_name
        self._first_is_taken_by = parameters[0].name if may_be_first else None
        where = getattr(function, "__qualname__", repr(function))
        try:
            hints = _hints(function)
        except NameError as error:
            raise TypeError("%s: cannot resolve an annotation: %s" % (where, error)) from None
        self.result = hints.get("return", inspect.Parameter.empty)
        for name, parameter in self._signature.parameters.items():
            annotation = hints.get(name, parameter.annotation)
            variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            if is_context(annotation) and not variadic:
                if self.context is not None:
                    raise TypeError("%s: %s and %s both take the context" % (where, self.context.name, name))
                self.context = ContextParameter(parameter, len(self.listed))
                if self.context.positional_only and not all(before.required for before in self.listed):
                    raise TypeError("%s: put the context before the parameters that have a default" % where)
                continue
            try:
                kind = "any" if len(self.listed) < columns else kind_of(annotation)
            except TypeError as error:
                raise TypeError("%s: parameter %s: %s" % (where, name, error)) from None
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                self.rest = kind
                self.rest_parameter = Parameter(parameter, annotation, kind)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self.further = True
            else:
                self.listed.append(Parameter(parameter, annotation, kind))

    @property
    def required(self) -> int:
        """The number of parameters without a default."""
        return sum(parameter.required for parameter in self.listed)

    def comes_first(self, parameter: Parameter) -> bool:
        """Whether this parameter can be passed by position, and all others by name."""
        return self._first_is_taken_by == parameter.name

    def bind(self, arguments: Dict[str, Any]) -> Tuple[List[Any], Dict[str, Any]]:
        """The positional and keyword arguments of a call with these arguments."""
        in_order: List[Any] = []
        by_name = dict(arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                in_order.append(by_name.pop(name, parameter.default))
        return in_order, by_name


def _hints(function: Any) -> Dict[str, Any]:
    """The annotations of a function, with strings evaluated."""
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isroutine(function) or isinstance(function, type)):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:
        # Many programs import `Context` for type checkers only.
        return typing.get_type_hints(function, localns={"Context": Context}, include_extras=True)


def is_context(annotation: Any) -> bool:
    """Whether an annotation marks the context parameter: `Context`, or an optional one."""
    if isinstance(annotation, type) and not typing.get_origin(annotation):
        return issubclass(annotation, Context)
    arguments = typing.get_args(annotation)
    if _is_union(typing.get_origin(annotation)):
        return all(argument is type(None) or is_context(argument) for argument in arguments)
    return _is_annotated(annotation) and is_context(arguments[0])


def _is_union(origin: Any) -> bool:
    return origin is Union or (UnionType is not None and origin is UnionType)


def _is_annotated(annotation: Any) -> bool:
    return hasattr(annotation, "__metadata__")


def doc_of(annotation: Any) -> str:
    """The text in an annotation such as `Annotated[int, "Milliseconds."]`; empty without one."""
    texts = [text for text in getattr(annotation, "__metadata__", ()) if isinstance(text, str)]
    if texts or typing.get_origin(annotation) is None:
        return texts[0] if texts else ""
    # Within `Required` or `NotRequired`.
    inner = typing.get_args(annotation)[:1]
    return doc_of(inner[0]) if inner and _is_annotated(inner[0]) else ""


def without_none(annotation: Any) -> Any:
    """The annotation within an optional one; any other as it is."""
    if _is_annotated(annotation):
        return without_none(typing.get_args(annotation)[0])
    others = [argument for argument in typing.get_args(annotation) if argument is not type(None)]
    is_optional = _is_union(typing.get_origin(annotation)) and len(others) == 1
    return without_none(others[0]) if is_optional else annotation


def is_union_of(annotation: Any, types: Set[Any]) -> bool:
    """Whether an annotation is the union of these types."""
    return _is_union(typing.get_origin(annotation)) and set(typing.get_args(annotation)) == types


def list_item(annotation: Any) -> Any:
    """The annotation of a list's items; None for what is not a list."""
    arguments = typing.get_args(annotation)
    return arguments[0] if typing.get_origin(annotation) in _LISTS and arguments else None


def scalar_name(annotation: Any) -> str:
    """The name of a scalar type, or of an optional one, in descriptions; empty for any other."""
    inner = without_none(annotation)
    return _NAMES.get(inner, "") if isinstance(inner, type) else ""


def kind_of(annotation: Any) -> Kind:
    """The kind of an annotation. Raises `TypeError` for a type that a message cannot hold."""
    try:
        scalar = _SCALARS.get(annotation)
    except TypeError:  # It cannot be hashed.
        scalar = None
    if scalar is not None:
        return scalar
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if _is_union(origin):
        return ("union",) + tuple(kind_of(argument) for argument in arguments)
    if _is_annotated(annotation):
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
        "%s is not a type that a message can hold: use str, int, float, bool, bytes, list, dict, Optional or Any" % name
    )


def _free(argument: Any) -> bool:
    return isinstance(argument, typing.TypeVar)
