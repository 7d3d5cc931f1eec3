"""Sinks: the official class, which acknowledges by hand, and functions."""

import asyncio
import gc
import json
import threading
import time
from typing import Any, Dict, List

import pytest

from ekuiper import Context, Sink, Stopped
from ekuiper.testing import SymbolError, sink


class PrintSink(Sink):
    def __init__(self):
        self.calls = []

    def configure(self, conf):
        self.calls.append(("configure", conf))

    def open(self, ctx):
        self.calls.append("open")

    def collect(self, ctx, data):
        assert type(data) is bytes
        self.calls.append(json.loads(data))
        ctx.ack_ok()

    def close(self, ctx):
        self.calls.append("close")


def test_the_official_class():
    symbol = PrintSink()
    with sink(symbol, config={"a": 1}, require_ack=True) as test:
        test.send({"n": 1})
        test.send([{"n": 2}])
        assert test.acks() == [None, None]
    assert symbol.calls == [("configure", {"a": 1, "requireAck": True}), "open", {"n": 1}, [{"n": 2}], "close"]


def test_nothing_is_acknowledged_where_nobody_asks():
    with sink(PrintSink()) as test:
        test.send({})
        assert test.acks() == []


def test_acknowledgements_have_both_names():
    class Picky(PrintSink):
        def collect(self, ctx, data):
            (ctx.ack_err if data == b"1" else ctx.ack_error)("no %s" % data.decode())

    with sink(Picky, require_ack=True) as test:
        test.send(1)
        test.send(2)
        assert test.acks() == ["no 1", "no 2"]


def test_an_exception_is_a_refusal_so_that_nobody_waits_for_ever(caplog):
    class Failing(PrintSink):
        def collect(self, ctx, data):
            raise OSError("disk full")

    with sink(Failing, require_ack=True) as test:
        for _ in range(2):
            with pytest.raises(SymbolError, match="^OSError: disk full$"):
                test.send({})
        assert test.acks() == ["OSError: disk full"] * 2
    assert "sink Failing failed to collect a message" in caplog.text


def test_who_acknowledges_later_is_not_answered_for():
    class Later(PrintSink):
        def collect(self, ctx, data):
            if data == b'"flush"':
                for _ in range(3):
                    ctx.ack_ok()
            elif data == b'"fail"':
                raise ValueError("of one in the middle")

    with sink(Later, require_ack=True) as test:
        test.send("first")
        with pytest.raises(SymbolError):
            test.send("fail")
        assert test.acks() == [], "whose it is, only the sink knows"
        test.send("flush")
        assert test.acks() == [None, None, None]


def test_acknowledged_by_a_thread_of_ones_own():
    class Threaded(PrintSink):
        def collect(self, ctx, data):
            thread = threading.Thread(target=ctx.ack_ok)
            thread.start()
            thread.join()

    with sink(Threaded, require_ack=True) as test:
        test.send({})
        assert test.acks() == [None]


def test_what_open_raises_refuses_the_start():
    class Closed(PrintSink):
        def open(self, ctx):
            raise PermissionError("not here")

    with pytest.raises(SymbolError, match="^PermissionError: not here$"):
        sink(Closed)


def test_a_function_takes_rows():
    rows = []

    def keep(row: Dict[str, Any]) -> None:
        if row.get("bad"):
            raise ValueError("a bad row")
        rows.append(row)

    with sink(keep, require_ack=True) as test:
        test.send({"n": 1})
        test.send([{"n": 2}, {"n": 3}])
        with pytest.raises(SymbolError, match="^ValueError: a bad row$"):
            test.send([{"n": 4}, {"bad": True}])
        with pytest.raises(SymbolError, match="^sink keep: row: expected dict, got int 7$"):
            test.send([7])
        with pytest.raises(SymbolError, match="ValueError"):
            test.send_bytes(b"no json")
        acks = test.acks()
    assert rows == [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]
    assert acks[:4] == [None, None, "ValueError: a bad row", "sink keep: row: expected dict, got int 7"]
    assert len(acks) == 5


def test_a_function_gets_the_same_objects_in_either_codec():
    message = [
        {"id": 2**63, "low": -(2**63), "x": 1.5, "ok": True, "none": None, "text": "größer 🦀", "": [{"id": []}]},
        {"image": b"\xff\x00", "id": "another", "k" * 40: {"id": 1}, 7: 8},
    ]
    rows = []

    def keep(row: Dict[str, Any]) -> None:
        rows.append(row)

    with sink(keep) as test:
        test.send(message)  # In MessagePack, as our host does.
        test.send_bytes(json.dumps(message, default=lambda image: "/wA=").encode())  # As an engine does.
        test.send_bytes(b' \n{"x": 7}')
    assert rows[:2] == rows[2:4] == [message[0], {"image": "/wA=", "id": "another", "k" * 40: {"id": 1}, "7": 8}]
    assert rows[4] == {"x": 7}
    assert [type(value) for value in rows[0].values()] == [int, int, float, bool, type(None), str, list]


def test_bytes_are_what_the_annotation_says():
    images = []

    def keep(row: Dict[str, bytes]) -> None:
        images.append(row["image"])

    with sink(keep) as test:
        test.send({"image": b"\xff\x00"})
        test.send_bytes(b'{"image": "/wA="}')
        with pytest.raises(SymbolError, match="^sink keep: row: image: expected bytes, got a str that is not Base64$"):
            test.send({"image": "?"})
    assert images == [b"\xff\x00"] * 2


def test_what_is_no_row_is_the_value_that_was_sent():
    values = []

    def keep(value: Any) -> None:
        values.append(value)

    # In MessagePack, 55 is the byte of the text 7.
    sent = [55, 7, -1, 1.5, "text", "", None, True, [], {}]
    with sink(keep) as test:
        for value in sent:
            test.send(value)
    assert values == [55, 7, -1, 1.5, "text", "", None, True, {}]


def test_a_malformed_message_is_refused_and_the_sink_goes_on():
    rows = []

    def keep(row: dict) -> None:
        rows.append(row)

    with sink(keep, require_ack=True) as test:
        for wrong in [b"", b"\x82", b"\x81\xa1a\x01\x02", b"\x81\xc0\x01", b"\x91\xc1", b"{}}", b"\xff"]:
            with pytest.raises(SymbolError, match="ValueError"):
                test.send_bytes(wrong)
        test.send({"n": 1})
        acks = test.acks()
    assert rows == [{"n": 1}]
    assert all(acks[:-1]) and acks[-1] is None


def test_a_function_takes_a_message():
    messages = []

    def whole(rows: List[dict]) -> None:
        messages.append(rows)

    def raw(data: bytes) -> None:
        messages.append(data)

    with sink(whole) as test:
        test.send([{"n": 1}, {"n": 2}])
        test.send({"n": 3})
    with sink(raw) as test:
        test.send_bytes(b"\xff")
    assert messages == [[{"n": 1}, {"n": 2}], [{"n": 3}], b"\xff"]


def test_its_other_parameters_are_the_configurations_fields():
    seen = []

    async def keep(row: dict, path: str, ctx: Context, times: int = 1) -> None:
        await asyncio.sleep(0)
        seen.append((row, path, times, ctx.get_rule_id()))

    with sink(keep, config={"path": "/x", "requireAck": True}) as test:
        test.send({"n": 1})
        assert test.acks() == [None]
    assert seen == [({"n": 1}, "/x", 1, "test")]
    with pytest.raises(SymbolError, match="^sink keep: config field path is missing$"):
        sink(keep)
    with pytest.raises(TypeError, match="its function must have a parameter that takes a row"):
        sink(lambda: None)


def test_the_context_is_passed_wherever_its_parameter_stands():
    seen = []

    def first(ctx: Context, row: dict, path: str = "p"):
        seen.append((ctx.get_rule_id(), row, path))

    def middle(row: dict, ctx: "Context", path: str = "p"):
        seen.append((ctx.get_rule_id(), row, path))

    def in_order(ctx: Context, row: dict, path: str = "p", /):
        seen.append((ctx.get_rule_id(), row, path))

    async def later(ctx: Context, row: dict, path: str = "p"):
        seen.append((ctx.get_rule_id(), row, path))

    for target in [first, middle, in_order, later]:
        for config in [{}, {"path": "/x"}]:
            with sink(target, config=config) as test:
                test.send([{"n": 1}, {"n": 2}])
            path = config.get("path", "p")
            assert seen == [("test", {"n": 1}, path), ("test", {"n": 2}, path)], target
            seen.clear()


def test_what_an_asynchronous_sink_leaves_goes_on_and_is_cancelled_in_the_end():
    written = []
    cancelled = threading.Event()

    async def flush(rows):
        try:
            while True:
                await asyncio.sleep(0.001)
                written.extend(rows)
                rows.clear()
        finally:
            cancelled.set()

    async def batched(row: dict):
        if not hasattr(batched, "rows"):
            batched.rows = []
            batched.task = asyncio.ensure_future(flush(batched.rows))
        batched.rows.append(row["n"])

    with sink(batched) as test:
        for number in range(5):
            test.send({"n": number})
        deadline = time.monotonic() + 30
        while len(written) < 5:
            assert time.monotonic() < deadline, "nothing is written between two messages"
            time.sleep(0.001)
    assert cancelled.wait(10)
    assert written == [0, 1, 2, 3, 4]


def test_everything_of_a_sink_goes_when_it_is_over():
    kept = []

    class Keeping(PrintSink):
        def open(self, ctx):
            kept.append(ctx)

    test = sink(Keeping, require_ack=True)
    test.send({})
    test.close()
    assert [thing for thing in gc.get_objects() if isinstance(thing, Keeping)] == []
    with pytest.raises(Stopped):
        kept[0].ack_ok()


def test_a_wrong_field_is_named_with_its_path():
    def keep(row: Dict[str, Dict[str, int]], names: Dict[str, List[str]] = {}) -> None:
        pass

    with sink(keep, require_ack=True) as test:
        with pytest.raises(SymbolError, match="^sink keep: row: a.b: expected int, got str 'x'$"):
            test.send({"a": {"b": "x"}})
    with pytest.raises(SymbolError, match=r"^sink keep: config field names: a\[1\]: expected str, got int 5$"):
        sink(keep, config={"names": {"a": ["x", 5]}})
