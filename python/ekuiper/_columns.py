"""What columnar symbols take and return, by their annotations. Other libraries are imported only where a
symbol names them, or returns something of theirs."""

from __future__ import annotations

import inspect
import sys
import typing
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from . import _ekuiper
from ._annotations import Parameter, Parameters, kind_of, list_item, scalar_name, without_none
from ._ekuiper import ArgumentError, Column

if TYPE_CHECKING:
    from ._ekuiper import Values

Taker = Callable[[Column], Any]
"""The conversion of a column to what a parameter takes."""


def _says_nothing(annotation: Any) -> bool:
    return annotation is inspect.Parameter.empty or annotation is Any or annotation is object


def _is_of(annotation: Any, package: str, name: str) -> bool:
    """Whether an annotation is this class of a package, or a subclass of it there."""
    cls = typing.get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return False
    return any(base.__name__ == name and base.__module__.partition(".")[0] == package for base in cls.__mro__)


def _plain(annotation: Any) -> Any:
    """The annotation within an `Annotated` or optional one, and what an alias stands for."""
    annotation = without_none(annotation)
    alias = typing.get_origin(annotation) or annotation
    if not hasattr(alias, "__value__"):
        return annotation
    # `type NDArray[T] = …`, as in later versions of NumPy.
    arguments = typing.get_args(annotation)
    return _plain(alias.__value__[arguments] if arguments else alias.__value__)


def taker(annotation: Any) -> Taker:
    """The conversion of columns for a parameter. Raises `TypeError` for a type that no column becomes."""
    annotation = _plain(annotation)
    if _says_nothing(annotation) or _is_of(annotation, "ekuiper", "Column"):
        return _as_it_is
    if _is_of(annotation, "numpy", "MaskedArray"):
        return lambda column: _masked(column, _dtype_of(annotation))
    if _is_of(annotation, "numpy", "ndarray"):
        return lambda column: _array(column, _dtype_of(annotation))
    if _is_of(annotation, "pyarrow", "Array"):
        return lambda column: _pyarrow(column, annotation)
    if _is_of(annotation, "polars", "Series"):
        return _polars
    if annotation is memoryview:
        return _view
    if annotation is list or list_item(annotation) is not None:
        kind = kind_of(annotation)
        return lambda column: _ekuiper.check(kind, column.to_list())
    raise TypeError(
        "%s takes no column: use numpy.ndarray, numpy.ma.MaskedArray, pyarrow.Array, polars.Series, memoryview, "
        "list or ekuiper.Column" % (getattr(annotation, "__name__", None) or repr(annotation))
    )


def type_of(annotation: Any) -> Dict[str, Any]:
    """The type of a column's values, for descriptions."""
    annotation = _plain(annotation)
    name = ""
    if _is_of(annotation, "numpy", "ndarray"):
        dtype = _dtype_of(annotation)
        kinds = {"b": "bool", "i": "int", "u": "int", "f": "float"}
        name = kinds.get(dtype.kind, "") if dtype is not None else ""
        if name and _is_of(annotation, "numpy", "MaskedArray"):
            name += "?"
    item = list_item(annotation)
    if item is not None:
        name = scalar_name(item)
        if name and without_none(item) is not item:
            name += "?"
    return {"type": name or "any"}


class ColumnarFunction:
    """A function that takes columns, and is called with what its parameters take."""

    def __init__(self, name: str, function: Callable[..., Any], parameters: Parameters) -> None:
        self._function = function
        takers: List[Optional[Taker]] = []
        self._names: List[str] = []
        listed = parameters.listed + ([parameters.rest_parameter] if parameters.rest_parameter else [])
        for parameter in listed:
            takers.append(_taker_of("function %s" % name, parameter))
            self._names.append(parameter.name)
        self._rest = takers.pop() if parameters.rest_parameter else None
        place = parameters.context.place if parameters.context else None
        if place is not None:
            # The context is passed by position, if the arguments before it are.
            takers.insert(place, None)
            self._names.insert(place, "")
        self._takers = takers

    def __call__(self, *columns: Any, **context: Any) -> Any:
        arguments = []
        position = 0
        for index, value in enumerate(columns):
            take = self._takers[index] if index < len(self._takers) else self._rest
            if isinstance(value, Column) and take is not None:
                position += 1
                try:
                    value = take(value)
                except (ArgumentError, TypeError, ValueError) as error:
                    name = self._names[min(index, len(self._names) - 1)]
                    raise ArgumentError("argument %d (%s): %s" % (position, name, error)) from None
            arguments.append(value)
        return self._function(*arguments, **context)


def _taker_of(what: str, parameter: Parameter) -> Taker:
    try:
        return taker(parameter.annotation)
    except TypeError as error:
        raise TypeError("%s: parameter %s: %s" % (what, parameter.name, error)) from None


def batch_taker(what: str, parameter: Parameter) -> Taker:
    """The conversion of batches for a parameter of a sink."""
    try:
        return _batch_taker(_plain(parameter.annotation))
    except TypeError as error:
        raise TypeError("%s: parameter %s: %s" % (what, parameter.name, error)) from None


def _batch_taker(annotation: Any) -> Taker:
    if _says_nothing(annotation) or annotation is dict:
        return lambda batch: batch.fields()
    if typing.get_origin(annotation) is dict:
        take = taker(typing.get_args(annotation)[1])
        return lambda batch: {name: _field(name, column, take) for name, column in batch.fields().items()}
    if _is_of(annotation, "ekuiper", "Column"):
        return _as_it_is
    if _is_of(annotation, "pyarrow", "RecordBatch"):
        return lambda batch: _module("pyarrow").record_batch(batch)
    if _is_of(annotation, "pyarrow", "Table"):
        return lambda batch: _module("pyarrow").Table.from_batches([_module("pyarrow").record_batch(batch)])
    if _is_of(annotation, "polars", "DataFrame"):
        return lambda batch: _module("polars").DataFrame(batch)
    raise TypeError(
        "%s takes no batch: use dict, pyarrow.RecordBatch, pyarrow.Table, polars.DataFrame or ekuiper.Column"
        % (getattr(annotation, "__name__", None) or repr(annotation))
    )


def _field(name: str, column: Column, take: Taker) -> Any:
    try:
        return take(column)
    except (ArgumentError, TypeError, ValueError) as error:
        raise ArgumentError("column %s: %s" % (name, error)) from None


def _module(name: str) -> Any:
    """A module that the annotation of a symbol names, which therefore is loaded."""
    return sys.modules[name]


def _as_it_is(column: Column) -> Column:
    return column


def _dtype_of(annotation: Any) -> Any:
    """The type that an annotation such as `numpy.typing.NDArray[numpy.float64]` names; None without one."""
    arguments = typing.get_args(annotation)
    of = typing.get_args(arguments[1]) if len(arguments) == 2 else ()
    numpy = sys.modules["numpy"]
    is_named = bool(of) and isinstance(of[0], type) and issubclass(of[0], numpy.generic)
    return numpy.dtype(of[0]) if is_named and not _is_abstract(numpy, of[0]) else None


def _is_abstract(numpy: Any, scalar: Any) -> bool:
    return scalar in (
        numpy.generic, numpy.number, numpy.integer, numpy.signedinteger, numpy.unsignedinteger, numpy.inexact,
        numpy.floating, numpy.complexfloating, numpy.flexible, numpy.character,
    )


def _refuse_nulls(column: Column, what: str, instead: str) -> None:
    if not column.null_count:
        return
    mask = column.nulls()
    row = 0 if mask is None else bytes(_memory(mask)).find(1)
    raise ArgumentError("row %d is null, and %s has no nulls: take %s" % (row, what, instead))


def _array(column: Column, dtype: Any) -> Any:
    """A column as an array of NumPy's."""
    _refuse_nulls(column, "numpy.ndarray", "numpy.ma.MaskedArray")
    return _with_nulls(column, dtype)


def _masked(column: Column, dtype: Any) -> Any:
    """A column as a masked array of NumPy's."""
    numpy = _module("numpy")
    mask = column.nulls()
    mask = numpy.ma.nomask if mask is None else numpy.asarray(mask)
    return numpy.ma.MaskedArray(_with_nulls(column, dtype), mask=mask)


def _with_nulls(column: Column, dtype: Any) -> Any:
    """The values of a column, where those of nulls are any value."""
    numpy = _module("numpy")
    if column.type == "Null":
        return numpy.zeros(len(column), dtype or numpy.float64)
    try:
        values = column.values()
    except TypeError:
        listed = column.to_list()
        array = numpy.fromiter(listed, dtype=object, count=len(listed))
    else:
        array = numpy.asarray(values)
        if column.type == "Date32":
            array = array.astype("datetime64[D]")
    return array if dtype is None or array.dtype == dtype else _converted(column, array, dtype)


def _converted(column: Column, array: Any, dtype: Any) -> Any:
    """An array with another type: a number as a float, or an integer as one that can hold it."""
    numpy = _module("numpy")
    kinds = array.dtype.kind + dtype.kind
    if numpy.can_cast(array.dtype, dtype, "safe") and kinds[0] in "biufmM" or kinds in ("if", "uf", "ff", "MM", "mm"):
        return array.astype(dtype)
    if kinds in ("ii", "iu", "ui", "uu"):
        converted = array.astype(dtype)
        # Equal is not enough: of a negative number an unsigned one may be made that is equal to it.
        fits = (converted == array) & ((converted < 0) == (array < 0))
        if column.null_count or fits.all():
            return converted
        row = int(numpy.argmin(fits))
        raise ArgumentError("row %d: %d is no %s" % (row, array[row], dtype))
    raise ArgumentError("expected %s, got a column of %s" % (dtype, column.type))


def _pyarrow(column: Column, annotation: Any) -> Any:
    pyarrow = _module("pyarrow")
    array = pyarrow.array(column)
    if not isinstance(array, annotation):
        raise ArgumentError("expected pyarrow.%s, got a column of %s" % (annotation.__name__, column.type))
    return array


def _polars(column: Column) -> Any:
    return _module("polars").Series(column)


def _memory(values: Values) -> memoryview:
    """The bytes of values, which only reads, and keeps them."""
    # Nothing else makes a view of memory that keeps its owner, in each version of Python.
    import ctypes

    memory: Any = (ctypes.c_char * values.length).from_address(values.address)
    memory.owner = values
    return memoryview(memory).toreadonly().cast("B")


def _view(column: Column) -> memoryview:
    """A column as a buffer."""
    _refuse_nulls(column, "memoryview", "ekuiper.Column, or list[Optional[...]]")
    if column.type == "Null":
        return memoryview(b"")
    values = column.values()
    if values.format == "e":
        raise ArgumentError("a memoryview cannot hold a column of %s" % column.type)
    if not len(values):
        # A view without bytes cannot be cast.
        import array

        format = "b" if values.format == "?" else values.format
        return memoryview(array.array(format)).toreadonly()
    view: Any = _memory(values)
    cast: memoryview = view.cast(values.format)
    return cast


def as_numpy(column: Column, dtype: Any = None, copy: Optional[bool] = None) -> Any:
    """What `numpy.asarray` makes of a column."""
    import numpy

    array = _array(column, None)
    if dtype is not None and array.dtype != dtype:
        if copy is False:
            raise ValueError("a column of %s is copied to become %s" % (column.type, dtype))
        return array.astype(dtype)
    return array.copy() if copy else array


def plain(value: Any) -> Any:
    """What a symbol has returned, for src/column/read.rs: a list of values; an array of NumPy's with one
    dimension and in one piece, and its mask or None; or bytes, with NumPy's name of their type and their
    number. Raises `TypeError` for anything else."""
    numpy: Any = sys.modules.get("numpy")
    if isinstance(value, tuple):
        return list(value)
    if numpy is not None and not isinstance(value, numpy.ndarray) and hasattr(value, "__array__"):
        value = numpy.asarray(value)
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _plain_array(numpy, value)
    if not isinstance(value, (str, bytes, bytearray)):
        try:
            view = memoryview(value)
        except TypeError:
            pass
        else:
            return _plain_buffer(view)
    raise TypeError(
        "%s is no column: use a NumPy array, an array of an Arrow library, a buffer, a list or an ekuiper.Column"
        % type(value).__name__
    )


def _plain_array(numpy: Any, array: Any) -> Any:
    if array.ndim != 1:
        raise TypeError("an array of %d dimensions is no column" % array.ndim)
    mask = None
    if isinstance(array, numpy.ma.MaskedArray):
        mask = None if array.mask is numpy.ma.nomask else numpy.ascontiguousarray(array.mask)
        array = array.data
    kind = array.dtype.kind
    if kind in "OSUT":
        values = array.tolist()
        return values if mask is None else [None if null else value for value, null in zip(values, mask)]
    if kind in "Mm":
        unit, count = numpy.datetime_data(array.dtype)
        if count != 1 or unit not in ("s", "ms", "us", "ns"):
            array = array.astype("%s8[%s]" % (kind, "s" if unit in ("Y", "M", "W", "D", "h", "m", "s") else "ns"))
    if kind not in "biufMm":
        raise TypeError("an array of %s is no column" % array.dtype)
    return numpy.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")), mask


_FORMATS: Dict[str, str] = {
    "b": "i1", "B": "u1", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "q": "i8", "Q": "u8", "e": "f2", "f": "f4",
    "d": "f8", "?": "b1",
}


def _plain_buffer(view: memoryview) -> Tuple[bytes, Tuple[str, int]]:
    if view.ndim != 1:
        raise TypeError("a buffer of %d dimensions is no column" % view.ndim)
    format = view.format.lstrip("@=")
    name = _FORMATS.get(format)
    if format in ("l", "L", "n", "N"):
        name = "%s%d" % ("i" if format in "ln" else "u", view.itemsize)
    if name is None:
        raise TypeError("a buffer of format %r is no column" % view.format)
    return view.tobytes(), ("=" + name, len(view))
