"""The implementation of contexts."""

from __future__ import annotations

from .._ekuiper import CurrentCall, SinkAcks, SourceEmitter, dumps
from .._logging import SymbolLogger, logger_of
from .context import Context

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from .._ekuiper import StopHook


class ContextImpl(Context):
    """A context. The plugin creates the contexts of its symbols. A context that a test creates, from
    a dict with `ruleId`, `opId` and `instanceId`, sends bytes to the emitters that the test sets."""

    ack_emitter: Any

    def __init__(self, meta: Dict[str, Any]) -> None:
        self.ruleId: str = meta["ruleId"]
        self.opId: str = meta["opId"]
        self.instanceId: int = meta["instanceId"]
        self.funcId: int = meta.get("funcId", 0)
        self.emitter: Any = None
        self._symbol = "test"
        self._call: Optional[CurrentCall] = None

    def set_emitter(self, emitter: Any) -> None:
        """Sets the destination of rows: an object with `send(bytes)`."""
        self.emitter = emitter

    def set_ack_emitter(self, emitter: Any) -> None:
        """Sets the destination of acknowledgements: an object with `send(bytes)`."""
        self.ack_emitter = emitter

    def get_rule_id(self) -> str:
        return self.ruleId

    def get_op_id(self) -> str:
        return self.opId

    def get_instance_id(self) -> int:
        return self.instanceId

    def get_logger(self) -> SymbolLogger:
        return logger_of(self._symbol)

    def emit(self, message: Any, meta: Optional[Dict[str, Any]] = None) -> None:
        emitter = self.emitter
        if type(emitter) is SourceEmitter:
            emitter.emit(message, meta)
        else:
            emitter.send(dumps({"message": message, "meta": meta}))

    def emit_batch(self, batch: Any) -> None:
        self._source().emit_batch(batch)

    def emit_error(self, error: str) -> None:
        if type(self.emitter) is SourceEmitter:
            self.emitter.emit_error(str(error))
        else:
            self.emitter.send(dumps({"error": error}))

    def sleep(self, seconds: float) -> bool:
        return self._source().sleep(seconds)

    def is_stopped(self) -> bool:
        return self._source().is_stopped()

    def on_stop(self, hook: Callable[[], object]) -> StopHook:
        return self._source().on_stop(hook)

    def is_cancelled(self) -> bool:
        return self._call is not None and self._call.is_cancelled()

    def _source(self) -> SourceEmitter:
        if type(self.emitter) is SourceEmitter:
            return self.emitter
        raise RuntimeError(
            "emit_batch, sleep, is_stopped and on_stop need a running source: a test runs one with ekuiper.testing.source"
        )

    def ack_ok(self) -> None:
        if type(self.ack_emitter) is SinkAcks:
            self.ack_emitter.ack_ok()
        else:
            self.ack_emitter.send(b"{}")

    def ack_error(self, error: str) -> None:
        if type(self.ack_emitter) is SinkAcks:
            self.ack_emitter.ack_error(str(error))
        else:
            self.ack_emitter.send(dumps({"error": error}))


def _live(
    symbol: str,
    rule_id: str,
    op_id: str,
    instance_id: int,
    emitter: Optional[SourceEmitter],
    acks: Optional[SinkAcks],
    func_id: int = 0,
    call: Optional[CurrentCall] = None,
) -> ContextImpl:
    """Creates the context of a running symbol."""
    meta = {"ruleId": rule_id, "opId": op_id, "instanceId": instance_id, "funcId": func_id}
    context = ContextImpl(meta)
    context._symbol = symbol
    context.emitter = emitter
    context.ack_emitter = acks
    context._call = call
    return context
