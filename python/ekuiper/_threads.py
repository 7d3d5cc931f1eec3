"""The threads that symbols run on, and the process's end."""

from __future__ import annotations

import os
import sys
import threading
import time

# Not imported in vain: it takes a good part of a plugin's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Set

GRACE = 0.3
"""Seconds that threads of the program's own have to end, when all else has."""

_running: Set[threading.Thread] = set()

before_first: Optional[Callable[[], None]] = None
"""Called on each thread before it runs."""


def start(name: str, run: Callable[[], None]) -> None:
    """Start a thread of this name, which is known to `threading`, to debuggers and to forked
    children as every other one is."""
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
        # For `ps` and `top`: Python names its threads so from 3.14 on.
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
    """Wait until the symbols' threads have ended, at most so many seconds; whether they have."""
    until = time.monotonic() + patience
    for thread in list(_running):
        thread.join(max(0.0, until - time.monotonic()))
    return not _running


def leave(code: int) -> None:
    """End the process at once, with what is still to be written."""
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
    """See to it that the interpreter's end, once it has begun, takes no longer than `GRACE`:
    a thread of the program's own that is no daemon would keep it."""
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
            "the plugin ends without its threads that go on (%s): make them daemons, or end them after start has "
            "returned", ", ".join(names)
        )
        atexit._run_exitfuncs()
        leave(code)

    # Now, since the end begins after some versions of Python have stopped starting threads.
    threading.Thread(target=watch, name="end", daemon=True).start()
    # The last that is registered is called first: before what waits for threads.
    atexit.register(ended.set)
    # What `concurrent.futures` uses, for the same moment.
    threading._register_atexit(begun.set)  # type: ignore[attr-defined]


def leave_child(error: Optional[BaseException]) -> None:
    """End a forked child in which a symbol's code has returned, or raised this."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, (int, type(None))):
            print(error.code, file=sys.stderr)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    leave(code & 0xFF)
