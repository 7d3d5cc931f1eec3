"""The threads of symbols, and the end of the process."""

from __future__ import annotations

import os
import sys
import threading
import time

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Set

GRACE = 0.3
"""Seconds for which the process waits for the program's own threads at its end."""

_running: Set[threading.Thread] = set()

before_first: Optional[Callable[[], None]] = None
"""A function that each thread calls before it runs its code."""


def start(name: str, run: Callable[[], None]) -> None:
    """Starts a thread with this name, by `threading`, so that debuggers and forked children know it
    as any other."""
    thread = threading.Thread(target=_run, args=(run,), name=name, daemon=True)
    _running.add(thread)
    try:
        thread.start()
    except BaseException:
        _running.discard(thread)
        raise


def _run(run: Callable[[], None]) -> None:
    thread = threading.current_thread()
    try:
        # For `ps` and `top`: Python itself does this from 3.14 on.
        with open("/proc/thread-self/comm", "w") as name:
            name.write(thread.name)
    except OSError:
        pass
    try:
        if before_first is not None:
            before_first()
        run()
    finally:
        _running.discard(thread)


def all_ended(patience: float) -> bool:
    """Waits up to `patience` seconds for the symbols' threads; whether all have ended."""
    until = time.monotonic() + patience
    for thread in list(_running):
        thread.join(max(0.0, until - time.monotonic()))
    return not _running


def leave(code: int) -> None:
    """Ends the process immediately, after flushing the log, stdout and stderr."""
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass
    os._exit(code)


def leave_in_time(code: int) -> None:
    """Limits the interpreter's finalization to `GRACE`: it would wait for non-daemon threads of the
    program's own."""
    import atexit

    begun, ended = threading.Event(), threading.Event()

    def watch() -> None:
        begun.wait()
        if ended.wait(GRACE):
            return
        main = threading.main_thread()
        names = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
        import logging

        logging.getLogger("ekuiper").warning(
            "the plugin exits although threads are still running (%s): make them daemon threads, or end them after "
            "start has returned", ", ".join(names)
        )
        atexit._run_exitfuncs()
        leave(code)

    # Started now: some versions of Python start no threads during finalization.
    threading.Thread(target=watch, name="end", daemon=True).start()
    # Handlers run in reverse order, so this one runs before those that wait for threads.
    atexit.register(ended.set)
    # `concurrent.futures` uses the same function, for the same purpose.
    threading._register_atexit(begun.set)  # type: ignore[attr-defined]


def leave_child(error: Optional[BaseException]) -> None:
    """Ends a forked child in which a symbol's code has returned, or raised `error`."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, (int, type(None))):
            print(error.code, file=sys.stderr)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    leave(code & 0xFF)
