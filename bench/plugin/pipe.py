"""The worker of columns over a pipe, on pyarrow: numbers are doubled, texts returned in capitals."""

import sys

import pyarrow as pa
import pyarrow.compute as pc


def main():
    results = None
    with pa.ipc.open_stream(sys.stdin.buffer) as batches:
        for batch in batches:
            column = batch.column(0)
            if pa.types.is_floating(column.type):
                result = pc.multiply(column, 2.0)
            else:
                result = pc.ascii_upper(column)
            answer = pa.record_batch([result], names=["result"])
            if results is None:
                results = pa.ipc.new_stream(sys.stdout.buffer, answer.schema)
            results.write_batch(answer)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
