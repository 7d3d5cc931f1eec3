"""The event loop of an asynchronous symbol.

Each call runs the loop on the symbol's own thread, without a thread switch. Tasks, timers and
servers that outlive a call continue between calls: a separate thread then runs the loop, until the
next call takes it back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Coroutine, Optional, TypeVar

T = TypeVar("T")


class Loop:
    """An event loop that continues to run between calls."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        # Which thread runs the loop: only one at a time may.
        self._goes_on = False
        self._wanted_back = False
        self._resume = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._between: Optional[threading.Thread] = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end. Only one thread may call this at a time."""
        loop = self._take()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            if _has_more(loop):
                self._go_on(loop)

    def close(self) -> None:
        """Cancels all tasks, waits for them, and closes the loop."""
        if self._loop is None:
            return
        loop = self._take()
        try:
            finish(loop, self._name)
        finally:
            self._loop = None
            if self._between is not None:
                self._between = None
                self._resume.release()

    def _take(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        if self._goes_on:
            self._wanted_back = True
            self._loop.call_soon_threadsafe(self._pause)
            self._paused.acquire()
            self._goes_on = self._wanted_back = False
        return self._loop

    def _pause(self) -> None:
        # The loop may have stopped for another reason.
        if self._wanted_back and self._loop is not None:
            self._loop.stop()

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._between is None:
            self._between = threading.Thread(target=self._run_on, args=(loop,), name=self._name, daemon=True)
            self._between.start()
        self._goes_on = True
        self._resume.release()

    def _run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            self._resume.acquire()
            if loop.is_closed():
                return
            while not self._wanted_back:
                try:
                    loop.run_forever()
                except BaseException:
                    # For example `SystemExit` of a task, which ends that task and not the symbol.
                    logging.getLogger("ekuiper").exception("a task of %s failed", self._name)
            self._paused.release()


def finish(loop: asyncio.AbstractEventLoop, name: str) -> None:
    """Cancels a loop's tasks, waits for them, and closes the loop."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                logging.getLogger("ekuiper").error("a task of %s failed", name, exc_info=task.exception())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _has_more(loop: Any) -> bool:
    """Whether a loop has work between calls; true if that cannot be determined."""
    if asyncio.all_tasks(loop):
        return True
    try:
        # One descriptor is the loop's own, which wakes it.
        return bool(loop._ready or loop._scheduled or len(loop._selector.get_map()) > 1)
    except AttributeError:
        return True
