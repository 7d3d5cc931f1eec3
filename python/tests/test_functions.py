"""Functions: the official class, and plain ones with annotations."""

import asyncio
import functools
import threading
import time
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
    with pytest.raises(SymbolError, match="validate must return a str"):
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
    assert refused(function(length), "?") == "argument 1 (data): expected bytes, got a str that is not Base64"
    assert function(either).call(1) == [1, None]
    assert function(either).call("a", 1) == ["a", 1.0]
    assert refused(function(either), 1.5) == "argument 1 (x): expected int or str, got float 1.5"
    assert function(whatever).call(1, [2], {"a": 3}) == [1, [2], {"a": 3}]
    assert function(points).call([{"x": 1}, {"x": 2.5}]) == 3.5
    assert refused(function(points), [{"x": 1}, {"x": "2"}]) == (
        "argument 1 (rows): [1].x: expected float, got str '2'"
    )

    def nested(row: Dict[str, List[Dict[str, int]]]):
        return row

    assert refused(function(nested), {"a": [{"b": "x"}]}) == "argument 1 (row): a[0].b: expected int, got str 'x'"
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


def first(ctx: Context, x: int, y: int = 2) -> list:
    return [x, y, ctx.get_rule_id()]


def middle(x: int, ctx: Context, y: int = 2) -> list:
    return [x, y, ctx.get_rule_id()]


def last(x: int, y: int = 2, ctx: Context = None) -> list:  # type: ignore[assignment]
    return [x, y, ctx.get_rule_id()]


def by_name(x: int, y: int = 2, *, ctx: Context) -> list:
    return [x, y, ctx.get_rule_id()]


def in_order(ctx: Context, x: int, y: int = 2, /) -> list:
    return [x, y, ctx.get_rule_id()]


def in_order_later(x: int, ctx: Context, /, y: int = 2) -> list:
    return [x, y, ctx.get_rule_id()]


def optional(ctx: Optional[Context], x: int, y: int = 2) -> list:
    return [x, y, ctx.get_rule_id()]


def text(ctx: "Context", x: "int", y: "int" = 2) -> "list":
    return [x, y, ctx.get_rule_id()]


def optional_text(x: int, y: int = 2, ctx: "Optional[Context]" = None) -> list:
    return [x, y, ctx.get_rule_id()]


async def later(ctx: Context, x: int, y: int = 2) -> list:
    await asyncio.sleep(0)
    return [x, y, ctx.get_rule_id()]


class Methods:
    def method(self, ctx: Context, x: int, y: int = 2) -> list:
        return [x, y, ctx.get_rule_id()]

    @classmethod
    def of_class(cls, ctx: Context, x: int, y: int = 2) -> list:
        return [x, y, ctx.get_rule_id()]

    @staticmethod
    def static(ctx: Context, x: int, y: int = 2) -> list:
        return [x, y, ctx.get_rule_id()]

    def __call__(self, ctx: Context, x: int, y: int = 2) -> list:
        return [x, y, ctx.get_rule_id()]


def three(a: str, ctx: Context, x: int, y: int = 2) -> list:
    return [x, y, ctx.get_rule_id()]


@pytest.mark.parametrize("target", [
    first, middle, last, by_name, in_order, in_order_later, optional, text, optional_text, later,
    Methods().method, Methods.of_class, Methods.static, Methods(), functools.partial(three, "a"),
], ids=str)
def test_the_context_is_passed_wherever_its_parameter_stands(target):
    test = function(target)
    test.validate(1)
    with pytest.raises(SymbolError, match=r"takes 1 to 2 arguments \(x, y\), got 0: x is missing$"):
        test.validate()
    assert test.call(1) == [1, 2, "test"]
    assert test.call(1, 3) == [1, 3, "test"]
    assert refused(test, "a").startswith("argument 1 (x): expected int, got str 'a'")


def test_the_context_beside_any_number_of_arguments():
    def before(ctx: Context, *values: float) -> list:
        return [*values, ctx.get_rule_id()]

    def between(x: float, ctx: Context, *values: float) -> list:
        return [x, *values, ctx.get_rule_id()]

    def behind(*values: float, ctx: Context) -> list:
        return [*values, ctx.get_rule_id()]

    for target in [before, between, behind]:
        assert function(target).call(1.5, 2.5) == [1.5, 2.5, "test"]
        assert function(target).call(1.5) == [1.5, "test"]


def test_an_aggregate_with_its_context_first():
    def mean(ctx: Context, values: List[float]) -> list:
        return [sum(values) / len(values), ctx.get_rule_id()]

    assert function(mean).is_aggregate()
    assert function(mean).call([1, 3]) == [2.0, "test"]


def test_annotations_that_only_a_type_checker_has_imported():
    scope = {}
    exec("from __future__ import annotations\ndef where(ctx: Context, x: int) -> list: return [x, ctx.get_rule_id()]", scope)
    assert function(scope["where"]).call(1) == [1, "test"]
    exec("from __future__ import annotations\ndef unknown(x: Missing): pass", scope)
    with pytest.raises(TypeError, match="unknown: cannot resolve an annotation: name 'Missing' is not defined"):
        function(scope["unknown"])


def test_contexts_that_cannot_be_passed():
    def two(a: Context, b: Context) -> None: ...

    def after_a_default(x: int = 1, ctx: Context = None, /) -> None: ...  # type: ignore[assignment]

    with pytest.raises(TypeError, match="two: a and b both take the context"):
        Plugin("p").function(two)
    with pytest.raises(TypeError, match="put the context before the parameters that have a default"):
        Plugin("p").function(after_a_default)


def test_who_has_not_asked_for_an_aggregate_is_told_of_it():
    def zscores(values: List[float]) -> List[float]:
        return values

    told = "(zscores is an aggregate, since all parameters are lists; aggregate=False makes it a scalar)"
    test = function(zscores)
    assert refused(test, 1.5) == "argument 1 (values): expected list[float], got float 1.5 " + told
    assert refused(test, [[1.0], [2.0]]) == "argument 1 (values): [0]: expected float, got list " + told
    assert refused(test, ["x"]) == "argument 1 (values): [0]: expected float, got str 'x'"
    for aggregate in [False, True]:
        test = function(zscores, aggregate=aggregate)
        assert refused(test, 1.5) == "argument 1 (values): expected list[float], got float 1.5"


def wait_until(what, condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "never: " + what
        time.sleep(0.001)


def test_what_an_asynchronous_function_leaves_goes_on_between_its_calls():
    ticks = []
    served = []

    async def tick():
        while True:
            ticks.append(threading.current_thread().name)
            await asyncio.sleep(0.001)

    async def begin(x: int) -> int:
        if x == 0:
            begin.task = asyncio.ensure_future(tick())
            asyncio.get_running_loop().call_later(0.001, served.append, "timer")
        await asyncio.sleep(0)
        return x + 1

    test = function(begin)
    assert test.call(0) == 1
    wait_until("it ticks", lambda: len(ticks) > 10 and served == ["timer"])
    for number in range(1, 100):
        assert test.call(number) == number + 1
    before = len(ticks)
    wait_until("it ticks after more calls", lambda: len(ticks) > before + 10)
    begin.task.cancel()


def test_a_call_that_leaves_nothing_needs_no_other_thread():
    def threads():
        return [thread.name for thread in threading.enumerate() if thread.name == "quick"]

    async def quick(x: int) -> int:
        await asyncio.wait_for(asyncio.sleep(0), 3600)
        return x

    test = function(quick)
    for number in range(10):
        assert test.call(number) == number
    assert threads() == []


def test_a_task_that_ends_its_thread_ends_only_itself(caplog):
    async def leave():
        raise SystemExit(3)

    async def begin(x: int) -> int:
        if x == 0:
            # Not in this call, in which it would be the call's own exception.
            asyncio.get_running_loop().call_later(0.01, lambda: asyncio.ensure_future(leave()))
        return x

    test = function(begin)
    assert test.call(0) == 0
    wait_until("it is in the log", lambda: "a task of begin failed" in caplog.text)
    assert test.call(1) == 1


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

    with pytest.raises(TypeError, match="bad: parameter x: Thread is not a type that a message can hold"):
        Plugin("p").function(bad)
    with pytest.raises(TypeError, match="x is keyword-only, but an engine passes arguments by position"):
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
