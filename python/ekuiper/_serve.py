"""Serves an engine, and leaves the process in order."""

from __future__ import annotations

import os
import signal
import sys
import threading

from . import _ekuiper, _threads

# Not imported in vain: it takes a good part of a plugin's start. `logging` takes half of it, and is
# imported by the first symbol that starts, if the program has not done so before.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Mapping


def launch_arguments() -> list[str]:
    """The engine's argument, a JSON object, among the program's; all of them where there is
    none."""
    arguments = sys.argv[1:]
    found = [argument for argument in arguments if argument.lstrip().startswith("{")]
    return found[-1:] or arguments


def launch_options() -> Dict[str, Any]:
    """What the engine says; nothing where it cannot be read, which the core then tells."""
    try:
        options = _ekuiper.loads("".join(launch_arguments()[-1:]).encode("utf-8", "surrogateescape"))
    except ValueError:
        return {}
    return options if isinstance(options, dict) else {}


def set_up_log() -> None:
    """Lines on stderr, at the level that the engine says."""
    from . import _logging

    _logging.set_up(launch_options().get("logLevel"))


def _set_up_log_once() -> None:
    """Before a symbol's code may log."""
    from . import _logging

    _logging.once(set_up_log)


def is_worker() -> bool:
    """Whether a guard has started this process."""
    guard = os.environ.get("EKUIPER_SDK_WORKER", "").partition(",")[0]
    return guard == str(os.getppid())


def become_guard(name: str, *symbols: Mapping[str, Any]) -> None:
    """Replaces this interpreter by the guard, which runs the script again: without what the
    script has loaded, and under the process number that the engine knows."""
    guard = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ekuiper-guard")
    # `orig_argv` is younger than Python 3.9.
    options = getattr(sys, "orig_argv", ["", "-u", *sys.argv])[1:]
    sources, sinks, functions = (list(names) for names in symbols)
    guarded = {
        "name": name,
        "sources": sources,
        "sinks": sinks,
        "functions": functions,
        "command": [sys.executable, *options],
    }
    arguments = launch_arguments()
    if len(arguments) != 1 or not arguments[0].lstrip().startswith("{"):
        # Nobody to guard for; the core says how a plugin is started.
        return
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(guard, [name, _ekuiper.dumps(guarded).decode(), *arguments])
    except OSError as error:
        raise RuntimeError("the guard of a supervised plugin cannot be run: %s: %s" % (guard, error)) from error


def serve(
    name: str,
    sources: Mapping[str, Callable[[], Any]],
    sinks: Mapping[str, Callable[[], Any]],
    functions: Mapping[str, Callable[[], Any]],
    idempotent: Iterable[str] = (),
    supervised: bool = False,
) -> None:
    """Serves until the engine ends, or ends the plugin. Raises `SystemExit` where the plugin
    cannot serve, with the exit code that the SDK gives it."""
    if supervised and not is_worker() and not launch_options().get("supervises"):
        become_guard(name, sources, sinks, functions)
    if "logging" in sys.modules:
        # The program may log before a symbol starts.
        _set_up_log_once()
    else:
        _threads.before_first = _set_up_log_once
    os.register_at_fork(after_in_child=_ekuiper.forked)
    # The import is not left to a symbol: `threading` takes the thread that loads it for the main one.
    if threading.current_thread() is threading.main_thread():
        # The core catches it: Ctrl-C ends the plugin in order, and is no exception besides.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = _ekuiper.run(
        name, [dict(sources), dict(sinks), dict(functions)], list(idempotent), supervised, launch_arguments()
    )
    if not _threads.all_ended(0.1):
        # A symbol hangs in code of its own. It would be cut off in the midst of it by the
        # interpreter's end, which such threads do not always survive.
        _threads.leave(code)
    _threads.leave_in_time(code)
    if code:
        raise SystemExit(code)
