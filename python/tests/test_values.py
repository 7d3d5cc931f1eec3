"""The conversion of values in both directions: the result for each type, and the refusals."""

import base64
import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import types
import uuid

import pytest

from ekuiper import _ekuiper
from ekuiper.testing import SymbolError, function


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    pass


@dataclasses.dataclass
class Point:
    x: int
    y: float


@dataclasses.dataclass
class Nested:
    y: object


class Odd(collections.abc.Mapping):
    """A mapping whose item `bad` cannot be read."""

    def __getitem__(self, key):
        if key != "good":
            raise LookupError("no luck")
        return 1

    def __init__(self, bad="bad"):
        self.bad = bad

    def __repr__(self):
        return "Odd(%r)" % (self.bad,)

    def __iter__(self):
        return iter(["good", self.bad])

    def __len__(self):
        return 2


class Lazy:
    """A descriptor whose reading recurses without end."""

    def __get__(self, instance, owner=None):
        if instance is None:
            raise AttributeError
        return self.__get__(instance, owner)

    def __set__(self, instance, value):
        pass


@dataclasses.dataclass(repr=False)
class Endless:
    x: int
    y: int = Lazy()


Pair = collections.namedtuple("Pair", "a b")

SENT = [
    (None, None),
    (True, True),
    (0, 0),
    (-(2**63), -(2**63)),
    (2**64 - 1, 2**64 - 1),
    (0.1, 0.1),
    (-0.0, -0.0),
    (1e308, 1e308),
    ("", ""),
    ("ü€😀\0\"\\\n", "ü€😀\0\"\\\n"),
    (Name("sub"), "sub"),
    ([1, [2, []]], [1, [2, []]]),
    ((1, 2), [1, 2]),
    (Pair(1, 2), [1, 2]),
    ({"a": {"b": None}}, {"a": {"b": None}}),
    (collections.OrderedDict(z=1, a=2), {"z": 1, "a": 2}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    ({1: "i", 1.5: "f", False: "b", None: "n", Name("s"): "s"}, {"1": "i", "1.5": "f", "false": "b", "null": "n", "s": "s"}),
    (
        {float("nan"): 1, float("inf"): 2, -float("inf"): 3, 1e300: 4, -0.0: 5, 10**30: 6, Level.HIGH: 7},
        {"NaN": 1, "Infinity": 2, "-Infinity": 3, "1e+300": 4, "-0.0": 5, "1" + "0" * 30: 6, "3": 7},
    ),
    (b"", ""),
    (b"f", "Zg=="),
    (b"fo", "Zm8="),
    (b"foo", "Zm9v"),
    (bytes(range(256)), None),
    (bytearray(b"foo"), "Zm9v"),
    (memoryview(b"foo"), "Zm9v"),
    (datetime.datetime(2026, 11, 25, 13, 5, 0, 250), "2026-11-25T13:05:00.000250"),
    (datetime.datetime(2026, 11, 25, tzinfo=datetime.timezone.utc), "2026-11-25T00:00:00+00:00"),
    (datetime.date(2026, 11, 25), "2026-11-25"),
    (datetime.time(13, 5), "13:05:00"),
    (datetime.timedelta(minutes=1, milliseconds=5), 60.005),
    (decimal.Decimal("0.10"), "0.10"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    ({3}, [3]),
    (frozenset(), []),
    (Point(1, 2.5), {"x": 1, "y": 2.5}),
    ([Point(1, 2.5)], [{"x": 1, "y": 2.5}]),
]


@pytest.mark.parametrize("value, sent", SENT, ids=[repr(value)[:40] for value, _ in SENT])
def test_what_is_sent(value, sent):
    if sent is None and value is not None:
        sent = base64.b64encode(value).decode()
    assert json.loads(_ekuiper.dumps(value)) == sent
    # The same on the way through a function.
    assert function(lambda: value).call() == sent


REFUSED = [
    (float("nan"), "NaN is not a number that a message can hold"),
    (float("-inf"), "-inf is not a number"),
    ({"a": [1, {"b": float("nan")}]}, "a[1].b: NaN is not a number"),
    (2**64, "the integer has more than 64 bits"),
    (-(2**63) - 1, "the integer has more than 64 bits"),
    (["x", 10**30], "[1]: the integer has more than 64 bits"),
    ("\ud800", "half of a surrogate pair"),
    ({"\udfff": 1}, "half of a surrogate pair"),
    ({(1, 2): 3}, "a key is of type tuple"),
    ({"a": {b"k": 3}}, "a: a key is of type bytes"),
    (object(), "a value of type object cannot be sent"),
    ([{"f": open}], "[0].f: a value of type builtin_function_or_method cannot be sent"),
    (Point, "a value of type type cannot be sent"),
    (1j, "a value of type complex cannot be sent"),
    (iter([]), "a value of type list_iterator cannot be sent"),
    ({"v": Nested({"z": float("nan")})}, "^v.y.z: NaN is not a number"),
    (Nested({"z": 1j}), "^y.z: a value of type complex cannot be sent"),
    ({"v": [Nested(Nested(1j))]}, "^v[0].y.y: a value of type complex cannot be sent"),
    ({"v": types.MappingProxyType({"z": Nested({1j})})}, "^v.z.y[0]: a value of type complex cannot be sent"),
    (Nested(float("inf")), "^y: inf is not a number"),
    (Odd(), "^bad: LookupError: no luck"),
    ({"v": [Odd()]}, "^v[0].bad: LookupError: no luck"),
    ({"v": Odd(float("nan"))}, "^v.NaN: LookupError: no luck"),
    ({"v": Odd((1, 2))}, "^v.(1, 2): LookupError: no luck"),
    ({"v": Endless(1, 2)}, "^v.y: RecursionError: maximum recursion depth exceeded"),
    ({1.5: {float("nan"): 1j}}, "^1.5.NaN: a value of type complex cannot be sent"),
]


@pytest.mark.parametrize("value, text", REFUSED, ids=[repr(value)[:40] for value, _ in REFUSED])
def test_what_is_refused(value, text):
    with pytest.raises(ValueError) as refused:
        _ekuiper.dumps(value)
    place, text = text.startswith("^"), text.lstrip("^")
    assert str(refused.value).startswith(text) if place else text in str(refused.value)
    with pytest.raises(SymbolError) as failed:
        function(lambda: value).call()
    start = "TypeError: the result cannot be sent: "
    assert str(failed.value).startswith(start + (text if place else "")) and text in str(failed.value)


def test_what_contains_itself():
    items = []
    items.append(items)
    fields = {"deeper": {}}
    fields["deeper"]["again"] = fields
    shared = [1]
    for value, what in [(items, "the list contains itself"), (fields, "the dict contains itself")]:
        with pytest.raises(ValueError, match=what):
            _ekuiper.dumps(value)
    assert _ekuiper.dumps([shared, shared]) == b"[[1],[1]]", "twice is not within itself"


def test_what_makes_itself_of_itself_comes_to_an_end():
    class Endless(collections.abc.Mapping):
        def __getitem__(self, key):
            return self

        def __iter__(self):
            return iter("k")

        def __len__(self):
            return 1

    with pytest.raises(ValueError, match="nested deeper than|contains itself"):
        _ekuiper.dumps(Endless())


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth():
    assert json.loads(_ekuiper.dumps(nested(120))) == nested(120)
    with pytest.raises(ValueError, match="nested deeper than 120 levels"):
        _ekuiper.dumps(nested(121))
    with pytest.raises(ValueError, match="nested deeper than 120 levels"):
        _ekuiper.dumps(nested(100_000))
    assert function(lambda: nested(120)).call() == nested(120), "with what is around it"


def test_depth_names_the_field():
    deep = {"rows": [{"at": nested(200)}]}
    with pytest.raises(ValueError, match=r"^rows\[0\]\.at[\[0\]]+…[\[0\]]+: it is nested deeper than 120 levels$") as refused:
        _ekuiper.dumps(deep)
    assert len(str(refused.value)) < 200
    value = 1
    for number in range(200):
        value = Nested(value) if number % 2 else {"k" * 1000: value}
    with pytest.raises(ValueError, match="^f.y.kkk+…k+.y: it is nested deeper than 120 levels$") as refused:
        _ekuiper.dumps({"f": value})
    assert len(str(refused.value)) < 200
    loop = {"a": {}}
    loop["a"]["b"] = [loop]
    with pytest.raises(ValueError, match="^f.a.b.0..a.b.*: the (dict|list) contains itself$"):
        _ekuiper.dumps({"f": loop})


def test_a_dict_that_changes_meanwhile():
    fields = {}

    class Spoiler(collections.abc.Mapping):
        def __getitem__(self, key):
            raise KeyError(key)

        def __iter__(self):
            fields["more"] = 1
            return iter(())

        def __len__(self):
            return 0

    fields.update(a=Spoiler(), b=2)
    with pytest.raises(ValueError, match="the dict changed while it was written"):
        _ekuiper.dumps(fields)


READ = [
    "null", "true", "[]", "{}", '"ü\\u0000"', "0", "-1", "9223372036854775807", "18446744073709551615",
    "0.5", "1e3", '{"a":[{"b":[null,false]}],"a2":""}',
]


@pytest.mark.parametrize("text", READ)
def test_what_is_read(text):
    value = _ekuiper.loads(text.encode())
    assert value == json.loads(text)
    assert type(value) is type(json.loads(text))


def test_integers_that_are_too_long_are_read_as_floats():
    assert _ekuiper.loads(b"18446744073709551616") == 2.0**64


@pytest.mark.parametrize("text", ["", "nan", "[1,]", '{"a":1}x', "[" * 1000, "\ud800"])
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        _ekuiper.loads(text.encode("utf-8", "surrogatepass"))


def test_numpy():
    numpy = pytest.importorskip("numpy")
    sent = {
        "i": numpy.int32(-3),
        "u": numpy.uint64(2**64 - 1),
        "f": numpy.float32(0.5),
        "d": numpy.float64(0.1),
        "b": numpy.bool_(True),
        "s": numpy.str_("x"),
        "a": numpy.array([[1, 2], [3, 4]]),
        "t": numpy.datetime64("2026-11-25T13:05:00"),
    }
    assert json.loads(_ekuiper.dumps(sent)) == {
        "i": -3, "u": 2**64 - 1, "f": 0.5, "d": 0.1, "b": True, "s": "x", "a": [[1, 2], [3, 4]],
        "t": "2026-11-25T13:05:00",
    }
    with pytest.raises(ValueError, match=r"a\[1\]: NaN is not a number"):
        _ekuiper.dumps({"a": numpy.array([1.0, float("nan")])})
