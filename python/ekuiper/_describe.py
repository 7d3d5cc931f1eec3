"""What a plugin says about itself, read from annotations, defaults and docstrings. No symbol's code
is run for it, and no object is made.

The form is that of `ekuiper_core::description`, which the guide shows."""

from __future__ import annotations

from . import _ekuiper
from ._settings import SettingsField, fields_of, is_dataclass, is_typed_dict, settings_of
from .function import Function
from .sink import Sink
from .source import Source

# `typing` is imported for type checkers only, and `_annotations` on demand: a plugin of classes
# without annotations, which a host asks for its description at the start, need not load them.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

    from ._annotations import Parameter

    Described = Dict[str, Any]

_SCALARS: Dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "string", bytes: "bytes"}


def describe(
    name: str,
    version: str,
    sources: Mapping[str, Callable[[], Any]],
    sinks: Mapping[str, Callable[[], Any]],
    functions: Mapping[str, Callable[[], Any]],
    declared: Mapping[str, Described],
) -> bytes:
    """The description of a plugin, as JSON; the core adds the SDK."""
    description = {
        "format": 1,
        "name": name,
        "version": version,
        "language": "python",
        "sources": [dict(_source(make), name=symbol) for symbol, make in sources.items()],
        "sinks": [dict(_sink(make), name=symbol) for symbol, make in sinks.items()],
        "functions": [
            dict(_function(make), name=symbol, **declared.get(symbol, {})) for symbol, make in functions.items()
        ],
    }
    return _ekuiper.dumps(description)


def _one_line(doc: Optional[str]) -> str:
    """The first paragraph of a docstring, on one line."""
    lines = []
    for line in (doc or "").strip().splitlines():
        if not line.strip():
            break
        lines.append(line.strip())
    return " ".join(lines)


def type_of(annotation: Any, within: Tuple[Any, ...] = ()) -> Described:
    """The type of an annotation: its name, and the fields of a struct in it. Of a struct that is in
    itself, by `within`, the fields are left out."""
    import typing

    from ._annotations import is_union_of, list_item, without_none

    inner = without_none(annotation)
    if inner is not annotation and not hasattr(annotation, "__metadata__"):
        described = type_of(inner, within)
        return described if described["type"] == "any" else dict(described, type=described["type"] + "?")
    if inner is not annotation:
        return type_of(typing.get_args(annotation)[0], within)
    scalar = _SCALARS.get(annotation) if isinstance(annotation, type) else None
    if scalar:
        return {"type": scalar}
    if is_dataclass(annotation) or is_typed_dict(annotation):
        if annotation in within:
            return {"type": "struct"}
        inside = (*within, annotation)
        return {"type": "struct", "fields": [_setting(field, inside) for field in fields_of(annotation)]}
    if isinstance(annotation, type) and annotation.__module__ == "datetime" and annotation.__name__ == "datetime":
        return {"type": "datetime"}
    item = list_item(annotation)
    if item is not None and not isinstance(item, typing.TypeVar):
        described = type_of(item, within)
        return dict(described, type="list<%s>" % described["type"])
    origin = typing.get_origin(annotation) or annotation
    if isinstance(origin, type) and not issubclass(origin, (str, bytes)):
        if issubclass(origin, (list, tuple, set, frozenset)):
            return {"type": "list<any>"}
        if issubclass(origin, dict) or origin.__name__ in ("Mapping", "MutableMapping"):
            return {"type": "struct"}
    if is_union_of(annotation, {int, float}):
        return {"type": "float"}
    return {"type": "any"}


def _default(value: Any) -> Any:
    """The default, if a message can hold it."""
    try:
        return _ekuiper.loads(_ekuiper.dumps(value))
    except Exception:  # The code of any type may be called.
        return None


def _field(name: str, described: Described, required: bool, default: Any, doc: str) -> Described:
    field = dict(described, name=name)
    if not required:
        field["optional"] = True
        sent = None if default is None else _default(default)
        if sent is not None:
            field["default"] = sent
    if doc:
        field["doc"] = doc
    return field


def _setting(setting: SettingsField, within: Tuple[Any, ...]) -> Described:
    described = type_of(setting.annotation, within)
    return _field(setting.name, described, setting.required, setting.default, setting.doc)


def _parameter(parameter: Parameter, of_annotation: Callable[[Any], Described] = type_of) -> Described:
    from ._annotations import doc_of

    default = None if parameter.required else parameter.default
    described = of_annotation(parameter.annotation)
    return _field(parameter.name, described, parameter.required, default, doc_of(parameter.annotation))


def _class_of(make: Any, base: type) -> Optional[type]:
    """The class that a factory makes an object of, as far as its code shows: a class, or a function
    that names just one class or object of that kind."""
    if isinstance(make, type):
        return make if issubclass(make, base) else None
    code = getattr(make, "__code__", None)
    if code is None:
        return None
    cells = {}
    for name, cell in zip(code.co_freevars, make.__closure__ or ()):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # It has no value yet.
            pass
    named = [cells.get(name, make.__globals__.get(name)) for name in (*code.co_freevars, *code.co_names)]
    classes = [thing if isinstance(thing, type) else type(thing) for thing in named]
    found = {cls for cls in classes if isinstance(cls, type) and issubclass(cls, base)}
    return found.pop() if len(found) == 1 else None


def _configured_class(make: Any, base: type) -> Described:
    cls = _class_of(make, base)
    if cls is None:
        return {}
    described: Described = {"doc": _one_line(cls.__dict__.get("__doc__"))}
    settings = settings_of(cls)
    if settings is not None:
        described["config"] = {"fields": [_setting(field, (settings,)) for field in fields_of(settings)]}
    return described


def _config(parameters: List[Parameter], further: bool) -> Described:
    config: Described = {"fields": [_parameter(parameter) for parameter in parameters]}
    if further:
        config["open"] = True
    return config


def _source(make: Any) -> Described:
    plain = getattr(make, "plain", None)
    if plain is None:
        return _configured_class(make, Source)
    target, parameters = plain
    topic = [parameter for parameter in parameters.listed if parameter.name == "datasource"]
    others = [parameter for parameter in parameters.listed if parameter.name != "datasource"]
    described = {"doc": _one_line(target.__doc__), "config": _config(others, parameters.further)}
    if topic:
        from ._annotations import doc_of

        described["datasource"] = doc_of(topic[0].annotation) or "The datasource of the stream."
    return described


def _sink(make: Any) -> Described:
    plain = getattr(make, "plain", None)
    if plain is None:
        return _configured_class(make, Sink)
    target, parameters = plain
    described: Described = {
        "doc": _one_line(target.__doc__), "config": _config(parameters.listed[1:], parameters.further)
    }
    if make.columnar:
        described["columnar"] = True
    if make.rows:
        described["rows"] = True
    return described


def _function(make: Any) -> Described:
    plain = getattr(make, "plain", None)
    if plain is None:
        return _function_class(make)
    target, parameters = plain
    if make.columnar:
        from ._columns import type_of as of_annotation
    else:
        of_annotation = type_of
    described: Described = {
        "doc": _one_line(target.__doc__),
        "arguments": [_parameter(parameter, of_annotation) for parameter in parameters.listed],
        "result": of_annotation(parameters.result),
        "aggregate": make.aggregate,
    }
    if make.columnar:
        described["columnar"] = True
    if parameters.rest_parameter is not None:
        rest = _parameter(parameters.rest_parameter, of_annotation)
        rest.pop("optional", None)
        described["variadic"] = rest
    return described


def _function_class(make: Any) -> Described:
    cls = _class_of(make, Function)
    if cls is None:
        return {"variadic": {"type": "any"}}
    execute = cls.__dict__.get("exec")
    described: Described = {
        "doc": _one_line(cls.__dict__.get("__doc__") or getattr(execute, "__doc__", None)),
        "variadic": {"type": "any"},
    }
    try:
        if getattr(execute, "__annotations__", None):
            _add_types(described, execute)
    except Exception:  # Annotations may name anything.
        pass
    try:
        # Of no object: most answer without looking at one.
        described["aggregate"] = bool(cls.is_aggregate(None))  # type: ignore[attr-defined]
    except Exception:
        pass
    return described


def _add_types(described: Described, execute: Any) -> None:
    """Adds what the annotations of a class's `exec` say."""
    import typing

    from ._annotations import list_item

    hints = typing.get_type_hints(execute)
    if "return" in hints:
        described["result"] = type_of(hints["return"])
    code = execute.__code__
    annotation = hints.get(code.co_varnames[1]) if code.co_argcount > 1 else None
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and arguments and Ellipsis not in arguments:
        described["arguments"] = [type_of(argument) for argument in arguments]
        del described["variadic"]
    elif list_item(annotation) is not None:
        described["variadic"] = type_of(list_item(annotation))
