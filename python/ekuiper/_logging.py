"""The log: `logging` on stderr, with the name of the symbol that logs."""

from __future__ import annotations

import logging
import sys
import threading

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional


FORMAT = "%(asctime)s %(levelname)s %(symbol)s %(filename)s:%(lineno)d: %(message)s"

LEVELS = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": 1,
}

_setting_up = threading.Lock()
_is_set_up = False
_loggers: Dict[str, "SymbolLogger"] = {}


class _Formatter(logging.Formatter):
    """A formatter that adds the symbol's name, which is that of its thread."""

    def format(self, record: logging.LogRecord) -> str:
        if not hasattr(record, "symbol"):
            record.symbol = threading.current_thread().name
        return super().format(record)


def set_up(level: Optional[str]) -> None:
    """Logs to stderr, which the engine collects, unless the program has its own handlers."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(FORMAT))
    root.addHandler(handler)
    root.setLevel(LEVELS.get((level or "info").lower(), logging.INFO))


def once(set_up_log: Callable[[], None]) -> None:
    """Calls `set_up_log` on the first call only: a handler removed since then is not added again."""
    global _is_set_up
    with _setting_up:
        if not _is_set_up:
            set_up_log()
            _is_set_up = True


class SymbolLogger(logging.Logger):
    """A symbol's logger, which is also a writable file, as in the official package: each line
    written to it is logged."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._unfinished = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Logs each complete line, and keeps an incomplete one."""
        with self._lock:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            if line:
                self._log_line(line)
        return len(text)

    def flush(self) -> None:
        """Logs an incomplete line."""
        with self._lock:
            line, self._unfinished = self._unfinished, ""
        if line:
            self._log_line(line)

    def _log_line(self, line: str) -> None:
        if self.isEnabledFor(logging.INFO):
            self._log(logging.INFO, "%s", (line,), stacklevel=3)

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = super().makeRecord(*args, **kwargs)
        record.symbol = self.name
        return record


def logger_of(symbol: str) -> SymbolLogger:
    """The logger of a symbol, whose records go to the root logger's handlers."""
    logger = _loggers.get(symbol)
    if logger is None:
        logger = SymbolLogger(symbol)
        logger.parent = logging.getLogger()
        logger = _loggers.setdefault(symbol, logger)
    return logger


def report(what: str, error: BaseException, others: int) -> None:
    """Logs a symbol's exception with its traceback."""
    more = "" if not others else " (%d others were not logged)" % others
    logging.getLogger("ekuiper").error("%s%s", what, more, exc_info=error)
