"""The plugin's description of itself, and configurations by annotations."""

import dataclasses
import json
import subprocess
import sys
from typing import Annotated, Any, Dict, List, Optional, Tuple, TypedDict, Union

import pytest

from ekuiper import Context, Function, Plugin, Sink, Source, testing

SCRIPT = '''
import dataclasses
from typing import Annotated, Any, List, Optional, TypedDict

from ekuiper import Function, Plugin, PluginConfig, Sink, Source, plugin

app = Plugin("snake", version="v1.2.3", supervised=%(supervised)s)

@app.function(idempotent=True, parallel=True, volatility="immutable", example="repeat('ab', 2)")
def repeat(text: str, times: Annotated[int, "How often."] = 2) -> str:
    """The text, several times.

    More words."""
    return text * times

@app.source
def ticks(datasource: Annotated[str, "A topic."], interval: Annotated[float, "Seconds."] = 1.0, **others):
    """Emits numbers."""
    yield {}

if __name__ == "__main__":
    app.run()
'''

CLASSES = '''
from typing import List

from ekuiper import Function, PluginConfig, Sink, Source, plugin

class Settings(dict):
    """Not to be made."""

class Revert(Function):
    """The text backwards."""
    def __init__(self):
        raise RuntimeError("an object is made")
    def validate(self, args): return ""
    def exec(self, args: List[str], ctx) -> str: return args[0][::-1]
    def is_aggregate(self): return False

class Print(Sink):
    def __init__(self):
        raise RuntimeError("an object is made")
    def configure(self, conf): ...

if __name__ == "__main__":
    plugin.start(PluginConfig("snake", {}, {"print": lambda: Print()}, {"revert": lambda: Revert()}))
'''


def run(folder, script, *arguments):
    (folder / "snake.py").write_text(script)
    command = [sys.executable, str(folder / "snake.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("supervised", [False, True])
def test_a_script_prints_its_description(tmp_path, supervised):
    done = run(tmp_path, SCRIPT % {"supervised": supervised}, "--describe")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    described = json.loads(done.stdout)
    assert described.pop("sdk")["name"] == "ekuiper-python"
    assert described == {
        "format": 1,
        "name": "snake",
        "version": "v1.2.3",
        "language": "python",
        "sources": [
            {
                "name": "ticks",
                "doc": "Emits numbers.",
                "datasource": "A topic.",
                "config": {
                    "fields": [
                        {"name": "interval", "type": "float", "optional": True, "default": 1.0, "doc": "Seconds."}
                    ],
                    "open": True,
                },
            }
        ],
        "sinks": [],
        "functions": [
            {
                "name": "repeat",
                "doc": "The text, several times.",
                "example": "repeat('ab', 2)",
                "arguments": [
                    {"name": "text", "type": "string"},
                    {"name": "times", "type": "int", "optional": True, "default": 2, "doc": "How often."},
                ],
                "result": {"type": "string"},
                "parallel": True,
                "idempotent": True,
                "volatility": "immutable",
            }
        ],
    }


def test_classes_are_described_without_an_object(tmp_path):
    done = run(tmp_path, CLASSES, "--describe")
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert described["functions"] == [
        {
            "name": "revert",
            "doc": "The text backwards.",
            "arguments": [],
            "variadic": {"type": "string"},
            "result": {"type": "string"},
        }
    ]
    assert described["sinks"] == [{"name": "print"}]


def test_a_sink_that_gets_objects_reads_rows_in_any_codec():
    app = Plugin("snake")

    @app.sink
    def row(row: Dict[str, Any]) -> None: ...

    @app.sink
    def anything(row, path: str = "") -> None: ...

    @app.sink
    def whole(rows: List[dict]) -> None: ...

    @app.sink
    def raw(data: bytes) -> None: ...

    @app.sink(columns=True)
    def batch(columns: Dict[str, list]) -> None: ...

    @app.sink
    class Official(Sink):
        """One of the official class, which gets bytes."""

    described = app.describe()["sinks"]
    rows = {sink["name"] for sink in described if sink.get("rows")}
    assert rows == {"row", "anything", "whole", "batch"}
    assert len(described) == 6


def test_a_mistake_is_an_error_and_no_description(tmp_path):
    script = "from ekuiper import PluginConfig, plugin\nplugin.start(PluginConfig('snake'))\n"
    done = run(tmp_path, script, "--describe")
    assert (done.returncode, done.stdout) == (2, "")
    assert "plugin snake: no source, sink or function was added" in done.stderr


def test_importing_starts_nothing(tmp_path):
    (tmp_path / "snake.py").write_text(SCRIPT % {"supervised": True})
    code = "import snake, threading; print(snake.app.describe()['name'], threading.active_count())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(tmp_path), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "snake 1\n"), done.stderr


@dataclasses.dataclass
class Point:
    x: float
    y: Optional[int] = None


class Named(TypedDict):
    name: str


def function(target, **options):
    app = Plugin("p")
    app.function(**options)(target)
    (described,) = app.describe()["functions"]
    return described


def test_types():
    def types(
        a: Any, b: bool, c: bytes, d: List[float], e: Optional[List[Optional[int]]], f: Dict[str, int], g: list,
        h: Union[int, float], i: Union[int, str], *rest: str
    ) -> Optional[List[Point]]: ...

    described = function(types, aggregate=True)
    assert [argument["type"] for argument in described["arguments"]] == [
        "any", "bool", "bytes", "list<float>", "list<int?>?", "struct", "list<any>", "float", "any",
    ]
    assert described["variadic"] == {"name": "rest", "type": "string"}
    fields = [{"name": "x", "type": "float"}, {"name": "y", "type": "int?", "optional": True}]
    assert described["result"] == {"type": "list<struct>?", "fields": fields}
    assert described["aggregate"] is True

    def mean(values: List[float]) -> float: ...

    assert function(mean)["aggregate"] is True

    def plain(x): ...

    assert function(plain)["arguments"] == [{"name": "x", "type": "any"}]

    with pytest.raises(ValueError, match="volatility is 'often': use immutable, stable or volatile"):
        Plugin("p").function(volatility="often")


def test_the_arguments_of_a_class_by_its_annotations():
    class Both(Function):
        def validate(self, args):
            return ""

        def exec(self, args: Tuple[str, int], ctx: Context) -> Named:
            """Both."""

        def is_aggregate(self):
            return True

    described = function(Both)
    assert described["arguments"] == [{"type": "string"}, {"type": "int"}]
    assert described["result"] == {"type": "struct", "fields": [{"name": "name", "type": "string"}]}
    assert (described["doc"], described["aggregate"], "variadic" in described) == ("Both.", True, False)


@dataclasses.dataclass
class Server:
    host: str
    port: Annotated[int, "The port."] = 1883


@dataclasses.dataclass
class Settings:
    topic: str
    servers: List[Server] = dataclasses.field(default_factory=list)
    interval: Annotated[int, "Milliseconds."] = 100


class Topic(TypedDict, total=False):
    topic: Annotated[str, "Where to publish."]


class Lines(Source):
    """Emits lines."""

    def configure(self, datasource, conf: Settings):
        self.settings = conf

    def open(self, ctx):
        ctx.emit({"topic": self.settings.topic, "ports": [server.port for server in self.settings.servers]})

    def close(self, ctx): ...


class Publish(Sink):
    def configure(self, conf: "Topic"):
        assert type(conf) is dict
        self.conf = conf

    def open(self, ctx): ...

    def collect(self, ctx, data):
        ctx.ack_ok()

    def close(self, ctx): ...


def test_settings_of_classes_are_described():
    app = Plugin("p")
    app.source(name="lines")(Lines)
    app.sink(name="publish")(Publish)
    described = app.describe()
    server = [
        {"name": "host", "type": "string"},
        {"name": "port", "type": "int", "optional": True, "default": 1883, "doc": "The port."},
    ]
    assert described["sources"] == [
        {
            "name": "lines",
            "doc": "Emits lines.",
            "config": {
                "fields": [
                    {"name": "topic", "type": "string"},
                    {"name": "servers", "type": "list<struct>", "fields": server, "optional": True},
                    {"name": "interval", "type": "int", "optional": True, "default": 100, "doc": "Milliseconds."},
                ]
            },
        }
    ]
    topic = {"name": "topic", "type": "string", "optional": True, "doc": "Where to publish."}
    assert described["sinks"][0]["config"] == {"fields": [topic]}


class Node(TypedDict, total=False):
    value: int
    children: "List[Node]"


def test_a_type_within_itself_ends():
    class Tree(Source):
        def configure(self, datasource, conf: Node): ...

    app = Plugin("p")
    app.source(name="tree")(Tree)
    (tree,) = app.describe()["sources"]
    assert tree["config"]["fields"][1] == {"name": "children", "type": "list<struct>", "optional": True}

    @app.function
    def odd(value: object = object()): ...

    assert app.describe()["functions"][0]["arguments"] == [{"name": "value", "type": "any", "optional": True}]


def test_settings_of_classes_are_checked_and_made():
    config = {"topic": "a", "servers": [{"host": "h"}, {"host": "h", "port": 7}], "format": "json"}
    with testing.source(Lines, config=config) as source:
        assert source.take(1) == [({"topic": "a", "ports": [1883, 7]}, None)]
    for config, said in [
        ({}, "config field topic is missing"),
        ({"topic": 7}, "config field topic: expected str, got int 7"),
        (
            {"topic": "a", "servers": [{"host": "h"}, {"host": "h", "port": "mqtt"}]},
            "config field servers[1].port: expected int, got str 'mqtt'",
        ),
        ({"topic": "a", "servers": [{}]}, "config field servers[0].host is missing"),
    ]:
        with pytest.raises(testing.SymbolError) as raised:
            testing.source(Lines, config=config).take(1)
        assert said in str(raised.value)
    with testing.sink(Publish, config={"topic": "a", "format": "json"}) as sink:
        sink.send({})
    with pytest.raises(testing.SymbolError, match="config field topic: expected str, got int 7"):
        with testing.sink(Publish, config={"topic": 7}):
            pass
