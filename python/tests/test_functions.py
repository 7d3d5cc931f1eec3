"""Functions: the official class, and plain ones with annotations."""

import asyncio
import threading
from typing import Any, Dict, List, Optional, Union

import pytest

from ekuiper import Context, Function, Plugin
from ekuiper.testing import SymbolError, function


class Revert(Function):
    def validate(self, args):
        return "" if len(args) == 1 else "revert takes 1 argument, got %d" % len(args)

    def exec(self, args, ctx):
        return args[0][::-1]

    def is_aggregate(self):
        return False


def refused(test, *args):
    with pytest.raises(SymbolError) as error:
        test.call(*args)
    return str(error.value)


def test_the_official_class():
    for target in [Revert, Revert()]:
        test = function(target)
        assert test.call("hello") == "olleh"
        assert not test.is_aggregate()
        test.validate({"Val": "hello"})
        with pytest.raises(SymbolError, match="revert takes 1 argument, got 2"):
            test.validate(1, 2)


def test_an_exception_is_an_error_with_its_type_and_text(caplog):
    class Failing(Revert):
        def exec(self, args, ctx):
            raise ValueError("no luck with %s" % args[0])

    test = function(Failing)
    assert refused(test, "seven") == "ValueError: no luck with seven"
    assert "function Failing failed" in caplog.text and "raise ValueError" in caplog.text
    assert refused(test, "eight") == "ValueError: no luck with eight", "and it goes on"
    # Tracebacks are at most one a second.
    assert caplog.text.count("Traceback") == 1
    assert refused(function(Failing)) == "IndexError: list index out of range"
    assert refused(function(lambda: [][1])) == "IndexError: list index out of range"
    assert refused(function(exit_)) == "SystemExit: 3"


def exit_():
    raise SystemExit(3)


def test_a_factory_that_fails_is_an_error():
    class Unmade(Revert):
        def __init__(self):
            raise RuntimeError("no model")

    assert refused(function(Unmade), "x") == "RuntimeError: no model"


def test_validate_that_says_nothing_and_nonsense():
    class Silent(Revert):
        def validate(self, args):
            return None

    class Wrong(Revert):
        def validate(self, args):
            return 7

    function(Silent).validate(1, 2, 3)
    with pytest.raises(SymbolError, match="validate must return a text"):
        function(Wrong).validate(1)


def test_the_context_of_a_call_site_lives_as_long_as_the_plugin():
    class Counting(Revert):
        def exec(self, args, ctx):
            ctx.count = getattr(ctx, "count", 0) + 1
            ids = [ctx.get_rule_id(), ctx.get_op_id(), ctx.get_instance_id()]
            return [ctx.count, isinstance(ctx, Context), *ids]

    test = function(Counting)
    assert test.call() == [1, True, "test", "test", 0]
    assert test.call() == [2, True, "test", "test", 0]


def repeat(text: str, times: int = 2) -> str:
    return text * times


def test_annotations_give_the_number_and_the_types():
    test = function(repeat)
    assert test.call("ab") == "abab"
    assert test.call("ab", 3) == "ababab"
    test.validate({"node": 1})
    with pytest.raises(SymbolError) as error:
        test.validate()
    assert str(error.value) == "repeat takes 1 to 2 arguments (text, times), got 0: text is missing"
    assert refused(test, "a", 2, 3) == "repeat takes 1 to 2 arguments (text, times), got 3"
    assert refused(test, "ab", "two") == "argument 2 (times): expected int, got str 'two'"
    assert refused(test, None) == "argument 1 (text): expected str, got None"
    assert refused(test, "ab", True) == "argument 2 (times): expected int, got bool True"
    assert refused(test, "ab", 1.0) == "argument 2 (times): expected int, got float 1.0"
    assert refused(test, ["x" * 1000], 1) == "argument 1 (text): expected str, got list"


def test_kinds():
    def half(x: float) -> float:
        assert type(x) is float
        return x / 2

    def length(data: bytes) -> int:
        return len(data)

    def either(x: Union[int, str], y: Optional[float] = None) -> list:
        return [x, y]

    def whatever(x, y: Any, z: object):
        return [x, y, z]

    def points(rows: List[Dict[str, float]]) -> float:
        return sum(row["x"] for row in rows)

    def total(*numbers: float) -> float:
        return sum(numbers)

    assert function(half).call(3) == 1.5
    assert function(length).call("Zm9v") == 3
    assert refused(function(length), "?") == "argument 1 (data): expected bytes, got a str that is no Base64"
    assert function(either).call(1) == [1, None]
    assert function(either).call("a", 1) == ["a", 1.0]
    assert refused(function(either), 1.5) == "argument 1 (x): expected int or str, got float 1.5"
    assert function(whatever).call(1, [2], {"a": 3}) == [1, [2], {"a": 3}]
    assert function(points).call([{"x": 1}, {"x": 2.5}]) == 3.5
    assert refused(function(points), [{"x": 1}, {"x": "2"}]) == (
        "argument 1 (rows): [1].x: expected float, got str '2'"
    )
    assert function(total).call(1, 2.5) == 3.5
    assert refused(function(total), 1, "2") == "argument 2: expected float, got str '2'"


def test_lists_make_an_aggregate():
    def mean(values: List[float]) -> float:
        return sum(values) / len(values)

    def scale(values: List[float], by: float) -> List[float]:
        return [value * by for value in values]

    assert function(mean).is_aggregate()
    assert function(mean).call([1, 2, 6]) == 3.0
    assert refused(function(mean), [1, "2"]) == "argument 1 (values): [1]: expected float, got str '2'"
    assert refused(function(mean), []) == "ZeroDivisionError: division by zero"
    assert not function(scale).is_aggregate()
    assert not function(mean, aggregate=False).is_aggregate()
    assert function(scale, aggregate=True).is_aggregate()


def test_the_context_is_passed_to_who_asks():
    def where(x: int, ctx: Context) -> list:
        return [x, ctx.get_rule_id()]

    test = function(where)
    test.validate(1)
    assert test.call(1) == [1, "test"]


def test_asynchronous_functions():
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    async def failing() -> None:
        raise ValueError("later")

    assert function(later).call(1) == 2
    assert function(later).call(2) == 3
    assert refused(function(failing)) == "ValueError: later"


def test_annotations_that_cannot_be_are_refused_at_once():
    def bad(x: threading.Thread) -> None: ...

    def named(*, x: int) -> None: ...

    with pytest.raises(TypeError, match="bad: parameter x: Thread is no type of a message"):
        Plugin("p").function(bad)
    with pytest.raises(TypeError, match="x cannot be passed by name"):
        Plugin("p").function(named)


def test_decorators_leave_the_function_alone(tmp_path):
    app = Plugin("p")

    @app.function
    def one(x: int) -> int:
        return x

    @app.function(name="other", aggregate=True, idempotent=True)
    def two(x: int) -> int:
        return x

    @app.source
    def ticks():
        yield {}

    @app.sink
    def out(row: dict):
        pass

    assert one(1) == two(1) == 1
    with pytest.raises(ValueError, match="function one is added twice"):
        app.function(one)
    manifest = app.manifest(tmp_path / "p.json", executable="p.py")
    assert manifest["functions"] == ["one", "other"]
    assert manifest["sources"] == ["ticks"] and manifest["sinks"] == ["out"]
    import json

    assert json.loads((tmp_path / "p.json").read_text()) == manifest
    assert manifest["language"] == "python" and manifest["executable"] == "p.py"
