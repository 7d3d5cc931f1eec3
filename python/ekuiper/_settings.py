"""The configuration of sources and sinks that are classes: the annotation of the parameter `conf`
of `configure`, a `TypedDict` or a dataclass, gives the fields. A dataclass gets an instance.

`typing` and `dataclasses` are imported on demand: classes without such annotations need neither."""

from __future__ import annotations

import sys

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional


class SettingsField:
    """A field of a `TypedDict` or dataclass."""

    def __init__(self, name: str, annotation: Any, required: bool, default: Any, doc: str) -> None:
        self.name = name
        self.annotation = annotation
        self.required = required
        self.default = default
        """None if the field has no default, or one that is made for each instance."""
        self.doc = doc


def settings_of(cls: type) -> Optional[Any]:
    """The `TypedDict` or dataclass that the `configure` of a source or sink takes; None for any
    other configuration."""
    configure = getattr(cls, "configure", None)
    configure = getattr(configure, "__wrapped__", configure)
    code = getattr(configure, "__code__", None)
    if code is None or code.co_argcount < 2:
        return None
    try:
        annotation = configure.__annotations__.get(code.co_varnames[code.co_argcount - 1])
        if isinstance(annotation, str):
            # Only names of classes: evaluating anything else would need `typing`.
            names = dict(vars(sys.modules.get(configure.__module__) or sys), **_closure(configure))
            first, *further = annotation.split(".")
            annotation = names[first]
            for name in further:
                annotation = getattr(annotation, name)
    except (AttributeError, KeyError, NameError):
        return None
    if not isinstance(annotation, type) or annotation is dict:
        return None
    return annotation if is_dataclass(annotation) or is_typed_dict(annotation) else None


def _closure(function: Any) -> Dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    return {name: cell.cell_contents for name, cell in cells}


def is_dataclass(annotation: Any) -> bool:
    """Whether an annotation is a dataclass."""
    return isinstance(annotation, type) and hasattr(annotation, "__dataclass_fields__")


def is_typed_dict(annotation: Any) -> bool:
    """Whether an annotation is a `TypedDict`."""
    return isinstance(annotation, type) and issubclass(annotation, dict) and hasattr(annotation, "__total__")


def fields_of(settings: Any) -> List[SettingsField]:
    """The fields of a `TypedDict` or dataclass, in order."""
    import typing

    from ._annotations import doc_of

    plain = typing.get_type_hints(settings)
    docs = {name: doc_of(annotation) for name, annotation in typing.get_type_hints(settings, include_extras=True).items()}
    if is_typed_dict(settings):
        required = settings.__required_keys__
        return [SettingsField(name, plain[name], name in required, None, docs[name]) for name in plain]
    import dataclasses

    fields = []
    for field in dataclasses.fields(settings):
        if not field.init:
            continue
        has_default = field.default is not dataclasses.MISSING
        required = not has_default and field.default_factory is dataclasses.MISSING
        default = field.default if has_default else None
        fields.append(SettingsField(field.name, plain[field.name], required, default, docs[field.name]))
    return fields


def build(settings: Any, conf: Dict[str, Any], path: str = "") -> Any:
    """The configuration as its type says: an instance of a dataclass, or the dict. Raises
    `ArgumentError` for a field that does not fit."""
    from ._ekuiper import ArgumentError

    values = {} if is_dataclass(settings) else dict(conf)
    for field in fields_of(settings):
        place = path + field.name
        if field.name in conf:
            values[field.name] = _value(field.annotation, conf[field.name], place)
        elif field.required:
            raise ArgumentError("config field %s is missing" % place)
    return settings(**values) if is_dataclass(settings) else values


def _value(annotation: Any, value: Any, place: str) -> Any:
    from . import _ekuiper
    from ._annotations import kind_of, list_item, without_none

    inner = without_none(annotation)
    if inner is not annotation and value is None:
        return None
    item = list_item(inner)
    if (is_dataclass(inner) or is_typed_dict(inner)) and isinstance(value, dict):
        return build(inner, value, place + ".")
    if (is_dataclass(item) or is_typed_dict(item)) and isinstance(value, list):
        return [_value(item, each, "%s[%d]" % (place, index)) for index, each in enumerate(value)]
    try:
        return _ekuiper.check(kind_of(annotation), value)
    except _ekuiper.ArgumentError as error:
        raise _ekuiper.ArgumentError("config field %s: %s" % (place, error)) from None


def adapt(cls: type) -> None:
    """Makes the `configure` of a subclass take what its annotation says."""
    configure: Any = cls.__dict__.get("configure")
    code = getattr(configure, "__code__", None)
    if code is None or code.co_argcount < 2:
        return
    try:
        annotation = configure.__annotations__.get(code.co_varnames[code.co_argcount - 1])
    except NameError:
        return
    if annotation is None or annotation is dict or not isinstance(annotation, (str, type)) or "[" in str(annotation):
        return
    wrapped: Callable[..., Any] = configure

    def configure_as_annotated(self: Any, *args: Any) -> Any:
        settings = settings_of(cls)
        if settings is not None and args and isinstance(args[-1], dict):
            args = (*args[:-1], build(settings, args[-1]))
        return wrapped(self, *args)

    configure_as_annotated.__wrapped__ = wrapped  # type: ignore[attr-defined]
    configure_as_annotated.__doc__ = wrapped.__doc__
    cls.configure = configure_as_annotated  # type: ignore[attr-defined]
