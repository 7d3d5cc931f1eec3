"""The log: `logging`, on stderr, with the name of the symbol that logs."""

from __future__ import annotations

import logging
import sys
import threading

# Not imported in vain: it takes a good part of a plugin's start.
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
    """Knows whose thread it is that logs."""

    def format(self, record: logging.LogRecord) -> str:
        if not hasattr(record, "symbol"):
            record.symbol = threading.current_thread().name
        return super().format(record)


def set_up(level: Optional[str]) -> None:
    """Lines on stderr, which the engine collects. Handlers of the program's own stay, alone."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(FORMAT))
    root.addHandler(handler)
    root.setLevel(LEVELS.get((level or "info").lower(), logging.INFO))


def once(set_up_log: Callable[[], None]) -> None:
    """Sets the log up unless it has been: whoever removed the handler since has had a reason."""
    global _is_set_up
    with _setting_up:
        if not _is_set_up:
            set_up_log()
            _is_set_up = True


class SymbolLogger(logging.Logger):
    """A symbol's logger. It can be written to as to a file, which is what the official package
    gives instead: each line is logged."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._unfinished = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Log each line that is complete; what is left waits for its end."""
        with self._lock:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            if line:
                self._log_line(line)
        return len(text)

    def flush(self) -> None:
        """Log what is left of an unfinished line."""
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
    """The logger of a symbol; its lines go where the program's others do."""
    logger = _loggers.get(symbol)
    if logger is None:
        logger = SymbolLogger(symbol)
        logger.parent = logging.getLogger()
        logger = _loggers.setdefault(symbol, logger)
    return logger


def report(what: str, error: BaseException, others: int) -> None:
    """Logs an exception of a symbol's with its traceback."""
    more = "" if not others else " (%d others were not logged)" % others
    logging.getLogger("ekuiper").error("%s%s", what, more, exc_info=error)
