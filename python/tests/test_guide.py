"""The guide's examples in Python run, and their tests pass."""

import pathlib
import re
import socket
import threading

import pytest

from ekuiper.testing import function, sink, source

PAGES = pathlib.Path(__file__).parents[2] / "docs/src"


def executed(page, count):
    """The names that a page's examples define, executed in order."""
    names = {"__name__": "guide", "__file__": "pysam.py"}
    examples = re.findall("^```python\n(.*?)^```", (PAGES / page).read_text(), re.DOTALL | re.MULTILINE)
    assert len(examples) == count
    for example in examples:
        exec(compile(example, page, "exec"), names)
    return names


@pytest.fixture(scope="module")
def guide():
    return executed("python.md", 7)


def test_columns(capsys):
    names = executed("columns.md", 2)
    names["test_double"]()
    names["test_ramp"]()
    names["test_total"](capsys)
    distance = function(names["distance"], columns=True)
    assert distance.call_columns([3], [4]).to_list() == [5.0]
    assert function(names["or_zero"], columns=True).call_columns([1.5, None]).to_list() == [1.5, 0.0]


def test_its_tests_pass(guide):
    tests = [name for name in guide if name.startswith("test_")]
    assert len(tests) == 4
    for name in tests:
        guide[name]()


def test_its_function_asks_whether_it_was_cancelled(guide):
    assert function(guide["primes_below"]).call(20) == [2, 3, 5, 7, 11, 13, 17, 19]


def test_its_function_describes_itself(guide):
    (repeat,) = guide["app"].describe()["functions"]
    assert repeat["arguments"][1] == {"name": "times", "type": "int", "optional": True, "default": 2, "doc": "How often."}


def test_its_class_takes_its_settings(guide):
    class Publish(guide["Publish"]):
        def configure(self, conf: guide["Settings"]):
            assert (conf.topic, conf.interval) == ("a", 100)

        def open(self, ctx): ...

        def close(self, ctx): ...

    with sink(Publish, config={"topic": "a"}):
        pass


def test_its_class_works(guide, capsys):
    with sink(guide["PrintSink"], require_ack=True) as test:
        test.send({"a": 1})
        assert test.acks() == [None]
    assert "received: b" in capsys.readouterr().out


def test_its_source_connects_again_and_its_wait_ends_with_the_stop(guide):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for number in range(3):
                connection, _ = server.accept()
                connection.sendall(b"%d\n" % number)
                if number < 2:
                    connection.close()
                else:
                    # Held open, without another line, until it is hung up.
                    hung_up.append(connection.recv(1))
                    connection.close()

        hung_up = []
        server_thread = threading.Thread(target=serve, daemon=True)
        server_thread.start()
        host, port = server.getsockname()
        with source(guide["lines"], config={"host": host, "port": port, "pause": 0.0}) as test:
            rows = [row for row, _ in test.take(3)]
        assert rows == [{"line": "0"}, {"line": "1"}, {"line": "2"}]
        server_thread.join(30)
        assert hung_up == [b""]
