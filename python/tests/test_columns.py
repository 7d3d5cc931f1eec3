"""Columns: what columnar functions, sources and sinks take and return, and what they refuse."""

import array
import asyncio
import ctypes
import gc
import math
import subprocess
import sys
import weakref
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
from numpy.typing import NDArray

from ekuiper import Column, Context, Function, Plugin
from ekuiper.testing import SymbolError, function, sink, source

try:
    import pyarrow as pa
except ImportError:
    pa = None
try:
    import polars as pl
except ImportError:
    pl = None

needs_pyarrow = pytest.mark.skipif(pa is None, reason="pyarrow is not installed: pip install pyarrow")
needs_polars = pytest.mark.skipif(pl is None, reason="polars is not installed: pip install polars")


def columnar(target):
    return function(target, columns=True)


def called(target, *columns):
    return columnar(target).call_columns(*columns).to_list()


def refused(target, *columns):
    with pytest.raises(SymbolError) as error:
        columnar(target).call_columns(*columns)
    return str(error.value)


def identity(x):
    return x


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


def test_numpy_reads_a_column_where_it_lies():
    seen = []

    def see(x: np.ndarray):
        seen.append((x.flags.writeable, x.flags.owndata, x.dtype.str, x.sum()))
        return x

    assert called(see, np.array([1.5, 2.5])) == [1.5, 2.5]
    assert seen == [(False, False, "<f8", 4.0)]

    def in_place(x: np.ndarray):
        x += 1
        return x

    assert refused(in_place, [1.0]).startswith("ValueError: output array is read-only")


@pytest.mark.parametrize("dtype", "i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 ?".split())
def test_every_number_passes(dtype):
    values = np.array([0, 1, 1, 0, 1], dtype=dtype)
    assert called(double if dtype != "?" else identity, values)[:2] == [0, 1 if dtype == "?" else 2]
    assert called(identity, values[1:4]) == [1, 1, 0]
    assert called(identity, values[::-2]) == values[::-2].tolist()
    assert called(identity, values.astype(values.dtype.newbyteorder(">"))) == values.tolist()


def test_numbers_and_rows_and_columns():
    test = columnar(double)
    assert test.call(21) == 42
    assert test.call(1.5) == 3.0
    assert test.call_columns(np.arange(3.0)).to_list() == [0.0, 2.0, 4.0]
    assert test.call_columns(np.arange(0.0)).to_list() == []
    assert not test.is_aggregate()
    test.validate({"node": 1})
    with pytest.raises(SymbolError) as error:
        test.validate()
    assert str(error.value) == "double takes 1 argument (x), got 0: x is missing"
    with pytest.raises(SymbolError) as error:
        test.call([1, 2])
    assert str(error.value).startswith("argument 1: a list cannot be a value of a column")


def test_a_declared_type_is_given():
    def types(x: NDArray[np.float64]) -> NDArray[np.float64]:
        assert x.dtype == np.float64
        return x / 2

    assert called(types, np.array([1, 2])) == [0.5, 1.0]
    assert called(types, np.array([1, 2], dtype="f4")) == [0.5, 1.0]
    assert columnar(types).call(3) == 1.5
    assert refused(types, ["a"]) == "argument 1 (x): expected float64, got a column of Utf8"

    def small(x: NDArray[np.int8]):
        assert x.dtype == np.int8
        return x

    assert columnar(small).call(100) == 100
    assert called(small, np.array([1, -128])) == [1, -128]
    assert refused(small, np.array([1, 128])) == "argument 1 (x): row 1: 128 is no int8"

    def unsigned(x: NDArray[np.uint64]):
        return x

    assert refused(unsigned, np.array([1, -1])) == "argument 1 (x): row 1: -1 is no uint64"
    assert refused(small, np.array([1.0])) == "argument 1 (x): expected int8, got a column of Float64"


def test_nulls_as_declared():
    column = [1.0, None, 3.0]
    assert refused(double, column) == (
        "argument 1 (x): row 1 is null, and numpy.ndarray has no nulls: take numpy.ma.MaskedArray"
    )

    def masked(x: np.ma.MaskedArray) -> np.ma.MaskedArray:
        return x * 2

    assert called(masked, column) == [2.0, None, 6.0]
    assert called(masked, [1.0, 2.0]) == [2.0, 4.0]
    assert columnar(masked).call(None) is None

    def typed(x: "np.ma.MaskedArray[Any, np.dtype[np.int32]]"):
        assert x.dtype == np.int32
        return x

    assert called(typed, [1, None]) == [1, None]
    assert called(typed, [None, None]) == [None, None]

    def values(x: List[float]):
        return x

    assert refused(values, column) == "argument 1 (x): [1]: expected float, got None"

    def optional(x: List[Optional[float]]) -> List[Optional[float]]:
        return [None if value is None else value + 1 for value in x]

    assert called(optional, column) == [2.0, None, 4.0]
    assert columnar(optional).call(None) is None

    def view(x: memoryview):
        return x

    assert refused(view, column).startswith("argument 1 (x): row 1 is null, and memoryview has no nulls: take ")
    assert called(identity, column) == column


def test_buffers_need_no_library():
    def view(x: memoryview) -> Any:
        assert x.readonly and x.format == "d", x.format
        return array.array("d", [value * 2 for value in x])

    assert called(view, array.array("d", [1.0, 2.0])) == [2.0, 4.0]
    assert called(view, array.array("d")) == []
    assert columnar(view).call(1.5) == 3.0
    assert called(identity, memoryview(array.array("i", range(10)))[2:8:2]) == [2, 4, 6]
    assert called(identity, array.array("l", [1])) == [1]

    def same(x: memoryview):
        return x

    for values in [array.array(code, [1, 2, 3]) for code in "bBhHiIqQ"] + [np.array([True, False])]:
        assert called(same, values) == values.tolist()
    assert refused(same, ["a"]) == "argument 1 (x): the values of a column of Utf8 have no fixed width"
    assert refused(same, np.array([1.0], dtype="f2")) == "argument 1 (x): a memoryview cannot hold a column of Float16"


def test_no_library_is_needed():
    program = """
import array, sys
sys.modules["numpy"] = None
from typing import List
from ekuiper import testing

def view(x: memoryview, y: List[float]):
    return array.array("d", [a + b for a, b in zip(x, y)])

column = testing.function(view, columns=True).call_columns([1.5, 2.0], array.array("d", [1.0, 2.0]))
assert column.to_list() == [2.5, 4.0], column.to_list()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_texts_bytes_and_times():
    def capitals(x: np.ndarray) -> np.ndarray:
        assert x.dtype == object
        return np.array([text.upper() for text in x], dtype=object)

    assert called(capitals, ["a", "bc"]) == ["A", "BC"]
    assert columnar(capitals).call("x") == "X"
    assert called(identity, np.array(["a", "bc"])) == ["a", "bc"]
    assert called(identity, [b"a", b"\xff"]) == [b"a", b"\xff"]
    if hasattr(np.dtypes, "StringDType"):
        assert called(identity, np.array(["a", "bc"], dtype=np.dtypes.StringDType())) == ["a", "bc"]
    times = np.array(["2026-01-01T00:00:01", "NaT"], dtype="datetime64[ms]")

    def hours(x: np.ma.MaskedArray):
        assert x.dtype == "datetime64[ms]"
        return x

    assert columnar(hours).call_columns(times).type == "Timestamp(ms)"
    assert called(hours, times) == [1767225601000, None]
    assert called(identity, times.astype("datetime64[D]")) == [1767225600, None]
    assert called(identity, np.array([5], dtype="timedelta64[us]")) == [5]


def test_results_that_are_no_columns():
    for result, text in [
        (3.0, "TypeError: float is no column: use a NumPy array"),
        ("abc", "TypeError: str is no column"),
        (b"abc", "TypeError: bytes is no column"),
        (None, "TypeError: NoneType is no column"),
        ({"a": 1}, "TypeError: dict is no column"),
        (np.zeros((2, 2)), "TypeError: an array of 2 dimensions is no column"),
        (np.float64(1), "TypeError: an array of 0 dimensions is no column"),
        (np.zeros(2, dtype=complex), "TypeError: an array of complex128 is no column"),
        (np.zeros(2, dtype=[("a", "i4")]), "TypeError: an array of "),
        (memoryview(bytes(4)).cast("B", [2, 2]), "TypeError: a buffer of 2 dimensions is no column"),
        (memoryview(b"ab").cast("c"), "TypeError: a buffer of format "),
        ([[1], [2]], "TypeError: row 0: a list cannot be a value of a column"),
        ([1, "a"], "TypeError: row 1: a text in a column of integers"),
        ([2**70, 1], "TypeError: row 0: the integer has more than 64 bits"),
        ([1.0], "the function returned 1 values for 2 rows"),
        (np.zeros(0), "the function returned 0 values for 2 rows"),
        (np.zeros(2**24 + 1, dtype="i1"), "the function returned 16777217 values for 2 rows"),
    ]:
        assert refused(lambda x: result, [1.0, 2.0]).startswith(text)


def test_one_row_needs_one_value():
    with pytest.raises(SymbolError, match="ValueError: the function returned 2 values for 1 row"):
        columnar(lambda x: [1, 2]).call(1)
    with pytest.raises(SymbolError, match="TypeError: the result cannot be sent: .*NaN"):
        columnar(lambda x: np.array([math.nan])).call(1)
    assert math.isnan(called(lambda x: [math.nan], [1])[0]), "columns have it"


def test_an_exception_is_the_error_of_the_call():
    def fails(x: np.ndarray):
        raise KeyError("no luck")

    assert refused(fails, [1.0]) == "KeyError: 'no luck'"
    assert refused(lambda x: exit(3), [1.0]) == "SystemExit: 3"


def test_the_number_of_columns():
    def add(x: np.ndarray, y: np.ndarray = None, *rest: np.ndarray) -> np.ndarray:
        return x + sum([y for y in [y, *rest] if y is not None])

    assert called(add, [1.0]) == [1.0]
    assert called(add, [1.0], [2.0], [3], np.array([4])) == [10.0]
    assert refused(double, [1.0], [2.0]) == "double takes 1 argument (x), got 2"

    def wants(x: np.ndarray, ctx: Context, y: np.ndarray = None):
        assert ctx.get_rule_id() == "test" and not ctx.is_cancelled()
        return x if y is None else y

    assert called(wants, [1.0]) == [1.0]
    assert called(wants, [1.0], [2.0]) == [2.0]
    assert refused(wants, [1.0], [None]).startswith("argument 2 (y): row 0 is null")
    assert columnar(wants).call(1.0, 2.0) == 2.0


def test_an_asynchronous_function():
    async def later(x: np.ndarray) -> np.ndarray:
        await asyncio.sleep(0)
        return x + 1

    assert called(later, [1.0]) == [2.0]
    assert columnar(later).call(1.0) == 2.0


def test_what_cannot_be_columnar():
    app = Plugin("p")
    with pytest.raises(TypeError, match="function f: parameter x: dict takes no column: use numpy.ndarray, "):

        @app.function(columns=True)
        def f(x: dict): ...

    with pytest.raises(TypeError, match="function f: an aggregate takes no columns"):
        app.function(columns=True, aggregate=True, name="f")(identity)
    with pytest.raises(TypeError, match="function f: y is keyword-only"):
        app.function(columns=True, name="f")(lambda x, *, y: x)
    with pytest.raises(TypeError, match="columns=True is for functions, not for classes"):
        app.function(columns=True, name="f")(type("F", (Function,), {}))
    with pytest.raises(TypeError, match="sink s: parameter batch: int takes no batch: use dict, "):

        @app.sink(columns=True)
        def s(batch: int): ...


def test_a_column_is_kept_as_long_as_it_is_used():
    kept = []

    def keep(x: np.ndarray):
        kept.append(x)
        return x

    test = columnar(keep)
    for number in range(50):
        assert test.call_columns(np.full(1000, float(number))).to_list()[0] == number
    assert [x[999] for x in kept] == [float(number) for number in range(50)]


def test_a_result_is_released():
    class Tracked(np.ndarray):
        pass

    alive = []

    def tracked(x: np.ndarray):
        result = (x * 2).view(Tracked)
        alive.append(weakref.ref(result))
        return result

    column = columnar(tracked).call_columns([1.0])
    del column
    gc.collect()
    assert alive[0]() is None


def test_a_row_function_is_called_with_columns():
    def half(x: float) -> float:
        return x // 2 if x > 2 else 1

    test = function(half)
    column = test.call_columns([1, 2, 3])
    assert (column.type, column.to_list()) == ("Float64", [1.0, 1.0, 1.0])
    with pytest.raises(SymbolError) as error:
        test.call_columns([1.0, None])
    assert str(error.value) == "row 1: argument 1 (x): expected float, got None"

    def text(x: Optional[int]) -> Optional[str]:
        return None

    column = function(text).call_columns([1, None])
    assert (column.type, column.to_list()) == ("Utf8", [None, None])

    def lies(x) -> int:
        return 1.5

    with pytest.raises(SymbolError, match="row 0: .*the number 1.5 in a column of integers"):
        function(lies).call_columns([1])

    class Revert(Function):
        def validate(self, args): ...

        def exec(self, args, ctx):
            return args[0][::-1]

        def is_aggregate(self):
            return False

    assert function(Revert).call_columns(["ab", "cd"]).to_list() == ["ba", "dc"]


def test_descriptions():
    app = Plugin("p")

    @app.function(columns=True, idempotent=True)
    def f(x: NDArray[np.int32], y: List[Optional[str]], z=None, *rest: np.ndarray) -> NDArray[np.bool_]:
        """Something."""

    @app.sink(columns=True)
    def s(batch, path: str = "p"): ...

    described = app.describe()
    assert described["functions"] == [
        {
            "name": "f",
            "doc": "Something.",
            "arguments": [
                {"name": "x", "type": "int"},
                {"name": "y", "type": "string?"},
                {"name": "z", "type": "any", "optional": True},
            ],
            "variadic": {"name": "rest", "type": "any"},
            "result": {"type": "bool"},
            "aggregate": False,
            "columnar": True,
            "idempotent": True,
        }
    ]
    (described_sink,) = described["sinks"]
    assert described_sink["columnar"] is True
    assert described_sink["config"] == {"fields": [{"name": "path", "type": "string", "optional": True, "default": "p"}]}


def test_a_source_of_batches():
    def ramp(count: int):
        for start in range(0, count, 2):
            yield {"n": np.arange(start, start + 2), "x": [0.5, None]}

    with source(ramp, config={"count": 4}, columns=True) as test:
        assert test.take(4) == [({"n": number, "x": [0.5, None][number % 2]}, None) for number in range(4)]

    async def later(ctx: Context):
        yield {"n": np.arange(2)}
        ctx.emit_batch({"n": array.array("q", [7])})
        ctx.emit({"row": 1})

    with source(later, columns=True) as test:
        assert [row for row, _ in test.take(4)] == [{"n": 0}, {"n": 1}, {"n": 7}, {"row": 1}]


def test_a_batch_that_cannot_be_sent_costs_itself():
    def wrong():
        yield {"a": [1, 2], "b": [1]}
        yield {"a": "text"}
        yield 5
        yield {1: [2]}
        yield {}
        yield {"n": [1]}, {"topic": "t"}
        yield {"n": [math.nan]}
        yield {"n": [1]}

    with source(wrong, columns=True) as test:
        texts = []
        while True:
            try:
                row, _ = next(test)
            except SymbolError as error:
                texts.append(str(error))
            else:
                break
        assert row == {"n": 1}
    expected = [
        "ValueError: column a has 2 values, and b has 1",
        "TypeError: column a: str is no column",
        "TypeError: int is no batch: use a dict of columns",
        "TypeError: ",
        "TypeError: ",
        "TypeError: tuple is no batch",
        "",
    ]
    assert len(texts) == len(expected), texts
    for text, begins in zip(texts, expected):
        assert text.startswith("a batch cannot be sent: " + begins), text


def test_a_sink_of_batches():
    taken = []

    def total(batch, name: str = "x"):
        assert all(type(column) is Column for column in batch.values())
        if name not in batch:
            raise KeyError(name)
        taken.append({key: column.to_list() for key, column in batch.items()})

    with sink(total, columns=True, require_ack=True) as test:
        test.send([{"x": 1, "y": "a"}, {"x": 2.5}])
        test.send({"x": 1})
        test.send_batch({"x": np.arange(2), "t": ["a", None]})
        assert taken == [{"x": [1.0, 2.5], "y": ["a", None]}, {"x": [1]}, {"x": [0, 1], "t": ["a", None]}]
        for message in [{"y": 1}, {"x": [1]}]:
            with pytest.raises(SymbolError):
                test.send(message)
        with pytest.raises(SymbolError):
            test.send_bytes(b"\xff\xff\xff\xff garbage")
        acks = test.acks()
        assert acks[:3] == [None] * 3
        assert acks[3] == "KeyError: 'x'"
        assert "a list cannot be a value of a column" in acks[4]
        assert acks[5].startswith("the record batch is not valid: ")


def test_the_columns_of_a_sink_by_its_annotation():
    sums = []

    def typed(batch: Dict[str, NDArray[np.float64]]):
        sums.append({name: values.sum() for name, values in batch.items()})

    with sink(typed, columns=True) as test:
        test.send([{"x": 1}, {"x": 2}])
        with pytest.raises(SymbolError, match="column x: row 0 is null"):
            test.send([{"x": None, "y": 1}])
    assert sums == [{"x": 3.0}]


def test_a_column_by_itself():
    column = columnar(identity).call_columns([1.5, None])
    assert repr(column) == "<Column of 2 rows, Float64>"
    assert (len(column), column.type, column.null_count, list(column)) == (2, "Float64", 1, [1.5, None])
    with pytest.raises(TypeError, match="a column of Float64 has no fields"):
        column.fields()
    with pytest.raises(Exception, match="row 1 is null"):
        np.asarray(column)
    whole = columnar(identity).call_columns([1, 2])
    assert np.asarray(whole).tolist() == [1, 2]
    assert np.asarray(whole, dtype=float).dtype == float
    assert np.array(whole).flags.writeable
    with pytest.raises(TypeError):
        Column()


# What others say of their arrays.


class Pair:
    """An object whose capsules are given."""

    def __init__(self, *capsules):
        self.capsules = capsules

    def __arrow_c_array__(self, requested_schema=None):
        return self.capsules


class Raises:
    def __arrow_c_array__(self, requested_schema=None):
        raise OSError("the array is gone")


class Streams:
    def __init__(self, capsule):
        self.capsule = capsule

    def __arrow_c_stream__(self, requested_schema=None):
        return self.capsule


def test_capsules_that_are_none():
    column = columnar(identity).call_columns([1.0, 2.0])
    schema, values = column.__arrow_c_array__()
    for result, text in [
        (Raises(), "OSError: the array is gone"),
        (Pair(), "TypeError: __arrow_c_array__ has not returned two capsules"),
        (Pair(1, 2), "TypeError: __arrow_c_array__ has not returned two capsules"),
        (Pair(values, schema), "ValueError: "),
        (Streams(None), "TypeError: __arrow_c_stream__ has not returned a capsule"),
        (Streams(schema), "ValueError: "),
    ]:
        assert refused(lambda x: result, [1.0, 2.0]).startswith(text)
    assert called(lambda x: Pair(schema, values), [1.0, 2.0]) == [1.0, 2.0]
    # An array is moved: the capsule is empty now.
    assert "it was released already" in refused(lambda x: Pair(schema, values), [1.0, 2.0])


class CArray(ctypes.Structure):
    pass


RELEASE = ctypes.CFUNCTYPE(None, ctypes.POINTER(CArray))
CArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.c_void_p),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]


def carray(capsule):
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return CArray.from_address(pointer(capsule, b"arrow_array"))


@pytest.mark.parametrize(
    "changes",
    [
        {"length": -1},
        {"length": 2**62},
        {"offset": -1},
        {"offset": 2**62},
        {"null_count": 3},
        {"null_count": -2},
        {"n_buffers": 1},
        {"n_buffers": -1},
        {"n_buffers": 2**40},
        {"n_children": 1},
        {"n_children": -1},
        {"buffers": None},
        {"release": None},
    ],
)
@pytest.mark.parametrize("values", [[1.0, 2.0], ["a", "bc"], [True, False]])
def test_arrays_that_contradict_themselves(values, changes):
    column = columnar(identity).call_columns(values)
    schema, capsule = column.__arrow_c_array__()
    for name, value in changes.items():
        setattr(carray(capsule), name, value)
    assert refused(lambda x: Pair(schema, capsule), values).startswith("TypeError: the array is not valid: ")
    assert called(identity, values) == values


def test_a_buffer_that_is_missing():
    for values in [[1.0, 2.0], ["a", "bc"], [True, False]]:
        column = columnar(identity).call_columns(values)
        schema, capsule = column.__arrow_c_array__()
        carray(capsule).buffers[1] = None
        assert "its buffer 1 is missing" in refused(lambda x: Pair(schema, capsule), values)


@pytest.mark.parametrize("offsets", [(0, 2, 1), (-1, 1, 2), (0, 1, -5), (3, 2, 2)])
def test_offsets_that_are_wrong(offsets):
    column = columnar(identity).call_columns(["a", "b"])
    schema, capsule = column.__arrow_c_array__()
    memory = (ctypes.c_int32 * 3)(*offsets)
    texts = ctypes.create_string_buffer(4)
    changed = carray(capsule)
    changed.buffers[1] = ctypes.addressof(memory)
    changed.buffers[2] = ctypes.addressof(texts)
    assert refused(lambda x: Pair(schema, capsule), [1, 2]).startswith("TypeError: the array is not valid: ")


def test_a_text_that_is_no_utf8():
    column = columnar(identity).call_columns([b"\xff\xfe"])
    _, capsule = column.__arrow_c_array__()
    texts = columnar(identity).call_columns(["x"]).__arrow_c_schema__()
    assert "Invalid UTF8" in refused(lambda x: Pair(texts, capsule), [1])


@needs_pyarrow
class TestPyarrow:
    def test_an_array_is_shared(self):
        import pyarrow.compute as pc

        def plus(x: pa.Array) -> pa.Array:
            assert x.type == pa.float64()
            return pc.add(x, 1)

        assert called(plus, pa.array([1.0, None, 3.0])) == [2.0, None, 4.0]
        assert columnar(plus).call(1.5) == 2.5

        def typed(x: pa.DoubleArray):
            return x

        assert called(typed, [1.5]) == [1.5]
        assert refused(typed, [1]) == "argument 1 (x): expected pyarrow.DoubleArray, got a column of Int64"

    @pytest.mark.parametrize(
        "values",
        [
            ([1, None, 3], "int8"),
            ([True, None, False], "bool_"),
            (["a", None, "ccc"], "string"),
            (["a", None, "ccc" * 30], "large_string"),
            (["a", None, "ccc" * 30], "string_view"),
            ([b"a", None, b"c"], "binary"),
            ([b"a", None, b"ccc" * 30], "binary_view"),
            ([1.5, None, 2.5], "float32"),
            ([None, None, None], "null"),
        ],
    )
    def test_slices_with_nulls(self, values):
        listed, name = values
        whole = pa.array(listed * 5, getattr(pa, name)())
        for start, end in [(0, 15), (1, 15), (3, 11), (9, 10), (7, 7)]:
            part = whole[start:end]
            assert called(identity, part) == (listed * 5)[start:end]

            def shared(x: pa.Array) -> pa.Array:
                return pa.concat_arrays([x, x])[len(x) :]

            assert called(shared, part) == (listed * 5)[start:end]

    def test_nested_types_and_dictionaries(self):
        import decimal

        for values in [
            pa.array([[1, 2], None, []]),
            pa.array([{"a": 1, "b": "x"}, {"a": None, "b": "y"}]),
            pa.array(["a", "b", None, "a"]).dictionary_encode(),
            pa.array([decimal.Decimal("1.50"), None]),
            pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
            pa.array([b"ab", b"cd"], pa.binary(2)),
            pa.array([1, 2], pa.timestamp("ns", "UTC")),
        ]:
            for part in [values, values[1:], values[:0]]:

                def same(x: pa.Array):
                    assert x.equals(part), (x, part)
                    return x

                columnar(same).call_columns(part)

    def test_unsupported_types_are_errors(self):
        runs = pa.RunEndEncodedArray.from_arrays([1, 3], ["a", "b"])
        union = pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array([1, 2])])
        views = pa.array([[1]], pa.list_view(pa.int64()))
        for values in [runs, union, views]:
            assert "not supported" in refused(lambda x: values, [1] * len(values))

    def test_chunks_are_joined(self):
        chunks = pa.chunked_array([["a"], [None, "b"], []])
        assert called(identity, chunks) == ["a", None, "b"]
        assert called(identity, pa.chunked_array([], pa.int64())) == []
        assert called(lambda x: chunks, [1, 2, 3]) == ["a", None, "b"]

    def test_a_stream_whose_callback_raises(self):
        def batches():
            yield pa.record_batch({"a": [1]})
            raise RuntimeError("the reader broke")

        def broken():
            yield pa.RecordBatchReader.from_batches(pa.schema({"a": pa.int64()}), batches())
            yield {"a": [2]}

        with source(broken, columns=True) as test:
            assert next(test) == ({"a": 1}, None)
            with pytest.raises(SymbolError, match="a batch cannot be sent: .*the reader broke"):
                next(test)
            assert next(test) == ({"a": 2}, None)

    def test_batches(self):
        taken = []

        def record(batch: pa.RecordBatch):
            taken.append(batch.to_pydict())

        def table(batch: pa.Table):
            taken.append(batch.to_pydict())

        for target in [record, table]:
            with sink(target, columns=True) as test:
                test.send([{"a": 1}, {"a": None, "b": "x"}])
                test.send_batch(pa.record_batch({"n": [[1], None]}))
        assert taken == [{"a": [1, None], "b": [None, "x"]}, {"n": [[1], None]}] * 2

        def batches():
            yield pa.record_batch({"a": [1, 2]})
            yield pa.table({"a": pa.chunked_array([[3], [4]])})

        with source(batches, columns=True) as test:
            assert [row["a"] for row, _ in test.take(4)] == [1, 2, 3, 4]

    def test_an_array_lives_longer_than_its_call(self):
        kept = []

        def keep(x: pa.Array):
            kept.append(x)
            return x

        test = columnar(keep)
        for number in range(20):
            test.call_columns([float(number)] * 100)
        gc.collect()
        assert [x[99].as_py() for x in kept] == [float(number) for number in range(20)]


@needs_polars
class TestPolars:
    def test_a_series(self):
        def plus(x: pl.Series) -> pl.Series:
            return x + 1

        assert called(plus, pl.Series([1.0, None])) == [2.0, None]
        assert columnar(plus).call(1) == 2

        def texts(x: pl.Series) -> pl.Series:
            return x.str.to_uppercase()

        assert called(texts, ["a", None, "b" * 40]) == ["A", None, "B" * 40]
        chunks = pl.concat([pl.Series([1]), pl.Series([2, 3])], rechunk=False)
        assert called(identity, chunks) == [1, 2, 3]

    def test_frames(self):
        frames = []

        def frame(batch: pl.DataFrame):
            frames.append(batch.to_dict(as_series=False))

        with sink(frame, columns=True) as test:
            test.send([{"a": 1, "b": "x"}, {"a": 2}])
        assert frames == [{"a": [1, 2], "b": ["x", None]}]

        def batches():
            yield pl.DataFrame({"a": [1, 2], "b": ["x", None]})

        with source(batches, columns=True) as test:
            assert [row for row, _ in test.take(2)] == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
