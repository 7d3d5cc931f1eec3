"""Sources: the official class, called as in the official package, and generators."""

import asyncio
import contextlib
import datetime
import gc
import itertools
import logging
import socket
import threading
import time
import weakref

import pytest

from ekuiper import Context, Source, Stopped
from ekuiper.testing import SymbolError, function, source


class PyJson(Source):
    def __init__(self):
        self.stopped = threading.Event()
        self.calls = []

    def configure(self, datasource, conf):
        self.calls.append(("configure", datasource, conf))
        if "fail" in conf:
            raise ValueError("no %s" % conf["fail"])

    def open(self, ctx):
        self.calls.append(("open", ctx.get_rule_id(), ctx.get_op_id(), ctx.get_instance_id()))
        try:
            for number in itertools.count(1):
                if self.stopped.is_set():
                    break
                ctx.emit({"value": number}, {"topic": "t"})
                self.stopped.wait(0.001)
        finally:
            self.calls.append("opened")

    def close(self, ctx):
        self.calls.append(("close", threading.current_thread() is not threading.main_thread()))
        self.stopped.set()


def test_the_official_class():
    symbol = PyJson()
    with source(symbol, datasource="demo", config={"interval": 5}) as test:
        assert test.take(3) == [({"value": number}, {"topic": "t"}) for number in (1, 2, 3)]
    assert symbol.calls[0] == ("configure", "demo", {"interval": 5})
    assert symbol.calls[1] == ("open", "test", "test", 0)
    assert symbol.calls.count(("close", True)) == 1, "once, from another thread"
    assert symbol.calls[-1] == "opened"


def test_emit_does_not_break_off_what_open_is_doing_before_close_has_returned():
    emitted = threading.Event()
    outcome = []

    class Slow(PyJson):
        def open(self, ctx):
            try:
                while not emitted.is_set() or not outcome:
                    ctx.emit({"n": 1}, None)
            except Stopped as stopped:
                outcome.append(stopped)

        def close(self, ctx):
            # What is emitted meanwhile is nobody's any more.
            ctx.emit({"n": 2}, None)
            outcome.append("closed")
            emitted.set()

    with source(Slow()) as test:
        test.take(2)
    assert outcome[0] == "closed", "and only then Stopped, if it emits once more"


def test_what_configure_raises_refuses_the_start():
    with pytest.raises(SymbolError, match="^ValueError: no luck$"):
        source(PyJson(), config={"fail": "luck"})


def test_a_source_that_never_looks_ends_by_what_emit_raises():
    ended = threading.Event()

    class Endless(PyJson):
        def open(self, ctx):
            try:
                while True:
                    ctx.emit({}, None)
            except Stopped:
                ended.set()
                raise

        def close(self, ctx):
            pass

    with source(Endless()) as test:
        test.take(2)
    assert ended.wait(10)


def test_a_source_that_sleeps_on_is_left_behind():
    release = threading.Event()
    outcome = []

    class Sleepy(PyJson):
        def open(self, ctx):
            ctx.emit({}, None)
            release.wait(60)
            try:
                ctx.emit({"late": True}, None)
            except Stopped as stopped:
                outcome.append(stopped)

        def close(self, ctx):
            pass

    test = source(Sleepy())
    test.take(1)
    test.stop()
    release.set()
    deadline = time.monotonic() + 10
    while not outcome and time.monotonic() < deadline:
        time.sleep(0.001)
    assert outcome, "it can emit nothing any more"


def test_an_exception_is_the_sources_error_and_it_is_closed(caplog):
    class Failing(PyJson):
        def open(self, ctx):
            ctx.emit({"value": 1}, None)
            ctx.emit_error("no reading")
            raise OSError("the sensor is gone")

    symbol = Failing()
    test = source(symbol)
    assert test.take(1) == [({"value": 1}, None)]
    for text in ["no reading", "OSError: the sensor is gone"]:
        with pytest.raises(SymbolError, match="^%s$" % text):
            test.take(1)
    assert test.take(1) == []
    with pytest.raises(SymbolError, match="the sensor is gone"):
        test.stop()
    assert [call for call in symbol.calls if call[0] == "close"] == [("close", True)]
    assert "source Failing failed" in caplog.text and "Traceback" in caplog.text


UNSENDABLE = [
    ({"value": float("nan")}, None, "value: NaN is not a number that a message can hold: send None instead"),
    ({"a": {"b": [1, float("-inf")]}}, None, "a.b[1]: -inf is not a number that a message can hold: send None instead"),
    ({"a": [object()]}, None, "a[0]: a value of type object cannot be sent"),
    ({"n": 10**400}, None, "n: the integer has more than 64 bits: send it as a text or a float"),
    ({"n": 1}, {"at": {"x": float("nan")}}, "meta.at.x: NaN is not a number that a message can hold: send None instead"),
    (float("inf"), None, "inf is not a number that a message can hold: send None instead"),
    (None, None, "it is None, and a row is a dict"),
    (None, {"topic": "t"}, "it is None, and a row is a dict"),
]


def by_class():
    class Odd(PyJson):
        def open(self, ctx):
            for row, meta, _ in UNSENDABLE:
                ctx.emit(row, meta)
            ctx.emit({"at": datetime.date(2026, 11, 25)})

    return Odd()


def by_generator():
    for row, meta, _ in UNSENDABLE:
        yield row, meta
    yield {"at": datetime.date(2026, 11, 25)}


async def by_asynchronous_generator():
    for row in by_generator():
        yield row


def by_hand(ctx: Context):
    for row in by_generator():
        ctx.emit(*row) if type(row) is tuple else ctx.emit(row)


@pytest.mark.parametrize("target", [by_class(), by_generator, by_asynchronous_generator, by_hand])
def test_a_row_that_cannot_be_sent_costs_that_row(target):
    with source(target) as test:
        for _, _, text in UNSENDABLE:
            with pytest.raises(SymbolError) as error:
                test.take(1)
            assert str(error.value) == "a row cannot be sent: " + text
        assert test.take(2) == [({"at": "2026-11-25"}, None)], "and the source goes on"


class Kept(PyJson):
    """A source that records its end and its contexts."""

    contexts = []
    how = "returns"

    def open(self, ctx):
        self.contexts.append(ctx)
        ctx.emit({"n": 1})
        if self.how == "raises":
            raise OSError("gone")
        if self.how == "waits":
            self.stopped.wait()


@pytest.mark.parametrize("how", ["returns", "raises", "waits"])
def test_everything_of_a_source_goes_when_it_is_over(how, monkeypatch):
    # pytest keeps what is logged, and with it the traceback.
    monkeypatch.setattr(logging.getLogger("ekuiper"), "disabled", True)

    class Counted(Kept):
        pass

    Counted.how = how
    test = source(Counted)
    test.take(1)
    alive = weakref.ref(Counted.contexts[-1])
    with contextlib.suppress(SymbolError):
        test.stop()
    deadline = time.monotonic() + 30
    while [thing for thing in gc.get_objects() if isinstance(thing, Counted)]:
        assert time.monotonic() < deadline, "its object is kept"
        time.sleep(0.001)
    context = alive()
    with pytest.raises(Stopped):
        context.emit({"n": 2})
    assert context.emitter.is_stopped() and not context.emitter.sleep(60)
    Counted.contexts.clear()
    del context
    assert alive() is None, "its context is kept"


def test_emit_from_a_thread_of_ones_own():
    class Threaded(PyJson):
        def open(self, ctx):
            def work():
                try:
                    for number in itertools.count():
                        ctx.emit({"n": number})
                except Stopped:
                    pass

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    with source(Threaded()) as test:
        assert len(test.take(100)) == 100


def ticks(interval: float = 0.001, start: int = 0):
    for number in itertools.count(start):
        yield {"number": number}
        time.sleep(interval)


def test_a_generator():
    with source(ticks, config={"start": 5, "interval": 0, "format": "json"}) as test:
        assert test.take(2) == [({"number": 5}, None), ({"number": 6}, None)]


def test_its_parameters_are_the_configurations_fields():
    def needy(path: str, datasource: str, ctx: Context, **others):
        yield {"path": path, "datasource": datasource, "rule": ctx.get_rule_id(), "others": others}

    with source(needy, datasource="t", config={"path": "/x", "a": 1}) as test:
        row = {"path": "/x", "datasource": "t", "rule": "test", "others": {"a": 1}}
        assert test.take(2) == [(row, None)], "and then it is over"
    with pytest.raises(SymbolError, match="^source needy: config field path is missing$"):
        source(needy)
    with pytest.raises(SymbolError, match="^source ticks: config field interval: expected float, got str 'soon'$"):
        source(ticks, config={"interval": "soon"})


def test_rows_have_a_meta_and_errors_end_it():
    def rows():
        yield {"a": 1}, {"topic": "kitchen"}
        raise ValueError("enough")

    test = source(rows)
    assert test.take(1) == [({"a": 1}, {"topic": "kitchen"})]
    with pytest.raises(SymbolError, match="^ValueError: enough$"):
        test.take(1)


def test_a_generator_is_closed():
    cleaned = threading.Event()

    def careful():
        try:
            while True:
                yield {}
        finally:
            cleaned.set()

    with source(careful) as test:
        test.take(1)
    assert cleaned.wait(10)


def test_an_asynchronous_generator_is_cancelled():
    cleaned = threading.Event()

    async def forever():
        try:
            yield {"n": 1}
            await asyncio.sleep(3600)
        finally:
            cleaned.set()

    with source(forever) as test:
        assert test.take(1) == [({"n": 1}, None)]
    assert cleaned.wait(10)


def test_tasks_that_an_asynchronous_source_leaves_are_cancelled():
    cancelled = threading.Event()

    async def forever():
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    async def rows():
        rows.task = asyncio.ensure_future(forever())
        await asyncio.sleep(0)
        yield {"n": 1}

    with source(rows) as test:
        assert test.take(2) == [({"n": 1}, None)]
    assert cancelled.wait(10)


def test_what_is_no_generator():
    def wrong():
        return [{}]

    def by_hand(ctx: Context):
        ctx.emit({"n": 1})

    async def by_hand_later(ctx: Context):
        await asyncio.sleep(0)
        ctx.emit({"n": 2})

    with pytest.raises(SymbolError, match="make it a generator"):
        source(wrong).take(1)
    with source(by_hand) as test:
        assert test.take(2) == [({"n": 1}, None)]
    with source(by_hand_later) as test:
        assert test.take(2) == [({"n": 2}, None)]


def test_a_source_leaves_nothing_behind():
    def memory():
        """The memory of this process, in KiB."""
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

    def run(times):
        for _ in range(times):
            with source(PyJson()) as test:
                test.take(2)

    run(200)
    before = memory()
    run(400)
    # A thread's state in the interpreter is 5 KiB.
    assert memory() - before < 1000


def test_the_threads_of_a_source_are_pythons_own():
    seen = []

    def rows():
        thread = threading.current_thread()
        seen.append((type(thread) is threading.Thread, thread.name, thread.daemon))
        yield {}

    with source(rows) as test:
        test.take(2)
    assert seen == [(True, "rows", True)]


def test_a_yield_without_a_row_costs_that_row():
    def bare():
        yield
        yield {"n": 1}

    with source(bare) as test:
        with pytest.raises(SymbolError, match="^a row cannot be sent: it is None, and a row is a dict$"):
            test.take(1)
        assert test.take(2) == [({"n": 1}, None)]


def test_a_hook_ends_a_wait_and_goes_when_it_is_taken_back():
    called = []
    ends = []

    def lines(ctx: Context):
        for number in range(3):
            mine, theirs = socket.socketpair()
            ends.append(weakref.ref(theirs))
            with mine, ctx.on_stop(lambda number=number, mine=mine: (called.append(number), mine.shutdown(2))):
                if number == 2:
                    ends.append(theirs)
                    yield {"number": number, "stopped": ctx.is_stopped()}
                    # Nobody sends anything: only the hook ends that.
                    ends.append(mine.recv(1))
                else:
                    theirs.close()
                    assert mine.recv(1) == b""
        ends.append(ctx.is_stopped())

    with source(lines) as test:
        assert test.take(1) == [({"number": 2, "stopped": False}, None)]
    assert called == [2] and ends[-2:] == [b"", True]


def test_hooks_are_called_once_and_at_once_where_the_source_is_stopped(caplog):
    called = []
    late = []

    class Hooked(PyJson):
        def open(self, ctx):
            self.ctx = ctx
            kept = ctx.on_stop(lambda: called.append("kept"))
            taken = ctx.on_stop(lambda: called.append("taken"))
            taken.take_back()
            taken.take_back()
            # Nothing holds what it returns, which takes nothing back.
            ctx.on_stop(lambda: called.append("unbound"))
            ctx.on_stop(lambda: 1 / 0)
            last = threading.Event()
            ctx.on_stop(last.set)
            gc.collect()
            ctx.emit({})
            while ctx.sleep(3600):
                pass
            # What was not called when the source is over, never is.
            last.wait(30)
            hook = ctx.on_stop(lambda: late.append("late"))
            assert late == ["late"]
            hook.take_back()
            del kept

    symbol = Hooked()
    with source(symbol) as test:
        test.take(1)
    assert "an on_stop hook failed" in caplog.text and "ZeroDivisionError" in caplog.text
    assert called == ["kept", "unbound"] and late == ["late"]
    symbol.ctx.on_stop(lambda: called.append("over"))
    assert called[-1] == "over" and symbol.ctx.is_stopped() and not symbol.ctx.sleep(3600)


def test_hooks_go_with_a_source_that_ends_by_itself():
    called = []

    class Held:
        def __call__(self):
            called.append(self)

    class Ending(PyJson):
        def open(self, ctx):
            held = Held()
            self.held = weakref.ref(held)
            self.hook = ctx.on_stop(held)
            del held
            ctx.emit({})

    symbol = Ending()
    with source(symbol) as test:
        test.take(2)
    deadline = time.monotonic() + 30
    while symbol.held() is not None:
        assert time.monotonic() < deadline, "its hook is kept"
        gc.collect()
        time.sleep(0.001)
    assert called == []


def test_only_a_source_has_hooks():
    def asks(ctx: Context):
        return ctx.on_stop(print)

    with pytest.raises(SymbolError, match="sleep, is_stopped and on_stop need a running source"):
        function(asks).call()
