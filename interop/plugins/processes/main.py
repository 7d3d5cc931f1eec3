"""A plugin on the module `ekuiper` whose symbols make processes and threads of their own."""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

from ekuiper import Context, Plugin

app = Plugin("unruly")
traced = set()


def trace(frame, event, arg):
    traced.add((event, frame.f_code.co_name))
    return trace


def profile(frame, event, arg):
    if event == "call":
        traced.add(("profile", frame.f_code.co_name))


threading.settrace(trace)
threading.setprofile(profile)


def exit_with(code):
    sys.exit(code)


def fail():
    raise ValueError("on purpose")


def square(number):
    return number * number


def wait_for_long():
    time.sleep(120)


def ended(pid):
    """What has become of a child: its exit code, or minus the signal."""
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@app.function
def terminated(method: str) -> int:
    """The exit code of a child that `multiprocessing` ends."""
    child = multiprocessing.get_context(method).Process(target=wait_for_long, daemon=True)
    child.start()
    child.terminate()
    child.join()
    return child.exitcode


@app.function
def exit_codes(method: str) -> list:
    """Those of children that return, exit, and raise."""
    context = multiprocessing.get_context(method)
    children = [context.Process(target=square, args=(2,)), context.Process(target=exit_with, args=(3,)),
                context.Process(target=fail)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


@app.function
def pooled(method: str) -> list:
    """What a pool computes, which is terminated after it."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        squares = pool.map(square, range(5))
    pool.join()
    return squares


@app.function
def forked(how: str) -> int:
    """What becomes of a child that `os.fork` makes, and that leaves this function so."""
    if how in ("SIGTERM", "SIGINT"):
        ready, is_ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(is_ready, b".")
            wait_for_long()
        os.read(ready, 1)
        os.kill(pid, getattr(signal, how))
        return ended(pid)
    pid = os.fork()
    if pid:
        return ended(pid)
    if how == "raises":
        raise ValueError("in the child")
    if how == "exits":
        sys.exit(5)
    return 77


@app.function
def handled(name: str) -> int:
    """What becomes of a child with a handler of its own."""
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(getattr(signal, name), lambda number, frame: os._exit(9))
        os.write(is_ready, b".")
        wait_for_long()
    os.read(ready, 1)
    os.kill(pid, getattr(signal, name))
    return ended(pid)


@app.function
def inherited(how: str) -> int:
    """What becomes of a child that has the plugin's own handler of SIGTERM."""
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(is_ready, b".")
        wait_for_long()
    os.read(ready, 1)
    os.kill(pid, signal.SIGTERM)
    return ended(pid)


@app.function
def square_of(number: int) -> int:
    return square(number)


@app.function
def before_exec(how: str) -> int:
    """What becomes of a child that is ended before it runs its program."""
    try:
        child = subprocess.Popen(["true"], preexec_fn=lambda: os.kill(os.getpid(), signal.SIGTERM))
    except subprocess.SubprocessError:
        return -1
    return child.wait()


@app.function
def seen(x: str) -> list:
    """What debuggers see of this."""
    return sorted(event for event, name in traced if name == "seen")


@app.function
def thread(x: str) -> list:
    """What Python knows of this thread."""
    thread = threading.current_thread()
    return [type(thread) is threading.Thread, thread.name, thread.daemon, thread is threading.main_thread()]


@app.function
def raised(name: str) -> int:
    """Raises what ends other programs."""
    if name == "RecursionError":
        return raised(name)
    if name == "huge":
        return 10**5000
    raise {"SystemExit": SystemExit(3), "KeyboardInterrupt": KeyboardInterrupt(), "MemoryError": MemoryError(),
           "GeneratorExit": GeneratorExit(), "BaseException": BaseException("base")}[name]


@app.source
def family(ctx: Context):
    """A forked child tries to emit, which only the plugin can."""
    receiver, sender = multiprocessing.Pipe(False)
    pid = os.fork()
    if pid == 0:
        try:
            ctx.emit({"child": True})
            sender.send("sent")
        except RuntimeError as error:
            sender.send(str(error))
        os._exit(0)
    yield {"child": receiver.recv(), "ended": ended(pid)}


def note(line):
    if "journal" in os.environ:
        with open(os.environ["journal"], "a") as file:
            file.write(line + "\n")


def handle(number, frame):
    """A handler of the program's own, in the plugin and in its children."""
    if os.getpid() == PLUGIN:
        note("handler")
    else:
        os._exit(9)


if __name__ == "__main__":
    PLUGIN = os.getpid()
    settings = os.environ.get("settings", "")
    if "handler" in settings:
        signal.signal(signal.SIGTERM, handle)
    if "thread" in settings:
        threading.Thread(target=wait_for_long, name="forever").start()
    if "executor" in settings:
        from concurrent.futures import ThreadPoolExecutor

        ThreadPoolExecutor().submit(square, 2).result()
    atexit.register(note, "atexit")
    app.run()
    note("after the start")
