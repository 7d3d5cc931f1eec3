"""The plugin `plugin-name`. Its manifest is made from its functions and their annotations."""

# [source]
import itertools
# [/source]
# [sink]
import json
# [/sink]
# [source]
from collections.abc import Iterator
# [/source]
# [source|sink]
from typing import Annotated
# [/source|sink]
# [source|sink]

# [/source|sink]
# [source]
from ekuiper import Context, Plugin
# [/source]
# [!source]
from ekuiper import Plugin
# [/!source]

app = Plugin("plugin-name", version="v0.1.0")

# [function]

@app.function(example="plugin_name_double(temperature)")
def plugin_name_double(value: float) -> float:
    """Twice the value."""
    # A call with other arguments is refused; an exception is the call's error.
    return value * 2

# [/function]
# [source]

@app.source
def plugin_name_ticks(
    ctx: Context,
    pause: Annotated[int, "Milliseconds between two rows."] = 1000,
    count: Annotated[int, "The number of rows; 0 for no end."] = 0,
) -> Iterator[dict]:
    """Emits numbered rows."""
    # All parameters but the context are the fields that a stream's configuration may have.
    for number in itertools.count(1):
        yield {"number": number}
        # False once the source is stopped.
        if number == count or not ctx.sleep(pause / 1000):
            return

# [/source]
# [sink]

@app.sink
def plugin_name_lines(
    rows: list[dict],
    path: Annotated[str, "The file that rows are appended to."],
) -> None:
    """Appends rows to a file as JSON lines."""
    # Where a rule asks for acknowledgements, the message is acknowledged when this returns, and
    # refused when it raises.
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with open(path, "a", encoding="utf-8") as file:
        file.write(lines)

# [/sink]

if __name__ == "__main__":
    app.run()
