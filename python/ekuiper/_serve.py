"""The service of an engine, and the orderly end of the process."""

from __future__ import annotations

import os
import signal
import sys
import threading

from . import _ekuiper, _threads

# `typing` is imported for type checkers only: it takes a good part of a plugin's startup time.
# `logging` takes half of that time, and is imported by the first symbol that starts, unless the
# program has imported it before.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Mapping


def launch_arguments() -> list[str]:
    """The engine's argument, a JSON object, among the program's arguments; all of them if there is
    no such object."""
    arguments = sys.argv[1:]
    found = [argument for argument in arguments if argument.lstrip().startswith("{")]
    return found[-1:] or arguments


def launch_options() -> Dict[str, Any]:
    """The engine's launch options; empty if they cannot be read, which the core then reports."""
    try:
        options = _ekuiper.loads("".join(launch_arguments()[-1:]).encode("utf-8", "surrogateescape"))
    except ValueError:
        return {}
    return options if isinstance(options, dict) else {}


def set_up_log() -> None:
    """Logs to stderr, at the level of the launch options."""
    from . import _logging

    _logging.set_up(launch_options().get("logLevel"))


def _set_up_log_once() -> None:
    """Sets the log up before a symbol's code may log."""
    from . import _logging

    _logging.once(set_up_log)


def is_worker() -> bool:
    """Whether a supervisor has started this process."""
    supervisor = os.environ.get("EKUIPER_SDK_WORKER", "").partition(",")[0]
    return supervisor == str(os.getppid())


def become_supervisor(name: str, describe: Callable[[], bytes], *symbols: Mapping[str, Any]) -> None:
    """Replaces this interpreter by the supervisor, which runs the script again: without the memory
    of the modules that the script has loaded, and under the pid that the engine knows."""
    supervisor = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ekuiper-guard")
    # `orig_argv` is new in Python 3.10.
    options = getattr(sys, "orig_argv", ["", "-u", *sys.argv])[1:]
    sources, sinks, functions = (list(names) for names in symbols)
    plugin = {
        "name": name,
        "sources": sources,
        "sinks": sinks,
        "functions": functions,
        "command": [sys.executable, *options],
    }
    arguments = launch_arguments()
    if len(arguments) != 1 or not arguments[0].lstrip().startswith("{"):
        # No engine started this process: the core reports how a plugin is started.
        return
    if launch_options().get("hello"):
        # The program that the interpreter becomes can only pass it on.
        plugin["description"] = describe().decode()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(supervisor, [name, _ekuiper.dumps(plugin).decode(), *arguments])
    except OSError as error:
        raise RuntimeError("cannot execute a plugin's supervisor: %s: %s" % (supervisor, error)) from error


def serve(
    name: str,
    sources: Mapping[str, Callable[[], Any]],
    sinks: Mapping[str, Callable[[], Any]],
    functions: Mapping[str, Callable[[], Any]],
    declared: Mapping[str, Dict[str, Any]] = {},
    supervised: bool = False,
    version: str = "",
) -> None:
    """Serves until the engine ends or stops the plugin, or prints the plugin's description. Raises
    `SystemExit` with the SDK's exit code if the plugin cannot serve. `declared` has what a function
    says of itself beyond its code."""

    def describe() -> bytes:
        # Imported on demand: the reading of annotations takes long to load.
        from . import _describe

        return _describe.describe(name, version, sources, sinks, functions, declared)

    if supervised and not is_worker() and not launch_options().get("supervises"):
        become_supervisor(name, describe, sources, sinks, functions)
    if "logging" in sys.modules:
        # The program may log before a symbol starts.
        _set_up_log_once()
    else:
        _threads.before_first = _set_up_log_once
    os.register_at_fork(after_in_child=_ekuiper.forked)
    # Not imported by a symbol: `threading` treats the thread that loads it as the main one.
    if threading.current_thread() is threading.main_thread():
        # The core catches SIGINT: Ctrl-C shuts the plugin down, without a KeyboardInterrupt.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    symbols = [dict(sources), dict(sinks), dict(functions)]
    idempotent = [symbol for symbol, says in declared.items() if says.get("idempotent")]
    code = _ekuiper.run(name, symbols, idempotent, supervised, describe, launch_arguments())
    if not _threads.all_ended(0.1):
        # A symbol's code hangs. The interpreter's finalization would interrupt its thread, which
        # can crash the process.
        _threads.leave(code)
    _threads.leave_in_time(code)
    if code:
        raise SystemExit(code)
