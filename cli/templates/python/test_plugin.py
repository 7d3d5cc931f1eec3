"""Tests of the plugin's symbols, without an engine."""

import plugin_name
import pytest
from ekuiper import testing

# [function]

def test_a_number_is_doubled():
    assert testing.function(plugin_name.plugin_name_double).call(21) == 42


def test_a_text_is_refused():
    with pytest.raises(testing.SymbolError, match="expected float, got str"):
        testing.function(plugin_name.plugin_name_double).call("21")

# [/function]
# [source]

def test_rows_are_numbered_and_end():
    config = {"pause": 0, "count": 3}
    with testing.source(plugin_name.plugin_name_ticks, config=config) as source:
        assert [row["number"] for row, meta in source] == [1, 2, 3]


def test_a_wrong_field_is_named():
    with pytest.raises(testing.SymbolError, match="config field pause: expected int"):
        testing.source(plugin_name.plugin_name_ticks, config={"pause": "long"})

# [/source]
# [sink]

def test_rows_are_written_before_they_are_acknowledged(tmp_path):
    path = tmp_path / "rows.jsonl"
    config = {"path": str(path)}
    with testing.sink(plugin_name.plugin_name_lines, config=config, require_ack=True) as sink:
        sink.send([{"a": 1}, {"a": 2}])
        assert sink.acks() == [None]
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n'


def test_what_is_no_row_is_refused():
    config = {"path": "/dev/null"}
    with testing.sink(plugin_name.plugin_name_lines, config=config, require_ack=True) as sink:
        with pytest.raises(testing.SymbolError, match="expected dict, got int 5"):
            sink.send([5])

# [/sink]
