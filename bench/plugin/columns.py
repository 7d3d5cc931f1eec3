"""The functions over columns that are measured, for our module with NumPy, and pyarrow for texts, if there is one;
`src/plugin.rs` is the same in Rust."""

import os

import numpy as np

from ekuiper import Plugin

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError:
    pa = None

app = Plugin(os.path.basename(os.getcwd()))


@app.function(columns=True, name="%s_double_columns" % app.name)
def double(x: np.ndarray) -> np.ndarray:
    return x * 2.0


if pa is None:

    @app.function(columns=True, name="%s_upper_columns" % app.name)
    def upper(texts: list[str]) -> list[str]:
        return [text.upper() for text in texts]

else:

    @app.function(columns=True, name="%s_upper_columns" % app.name)
    def upper(texts: pa.StringArray) -> pa.StringArray:
        return pc.ascii_upper(texts)


if __name__ == "__main__":
    app.run()
