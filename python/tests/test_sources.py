"""Sources: the official class in upstream's way, and generators."""

import asyncio
import datetime
import itertools
import threading
import time

import pytest

from ekuiper import Context, Source, Stopped
from ekuiper.testing import SymbolError, source


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


def test_what_cannot_be_sent_is_the_emitters_exception():
    class Odd(PyJson):
        def open(self, ctx):
            try:
                ctx.emit({"a": [object()]}, None)
            except ValueError as error:
                ctx.emit({"error": str(error)})
            ctx.emit({"at": datetime.date(2026, 11, 25)})

    with source(Odd()) as test:
        rows = test.take(2)
    assert rows[0][0] == {"error": "a[0]: a value of type object cannot be sent"}
    assert rows[1][0] == {"at": "2026-11-25"}


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
        """Of this process alone, in KiB."""
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
