"""Threads that share the work of one call, over and over: a step of an environment takes less than a thread switch may.

Each thread has pieces of its own, and takes from the others' when it is done: one that wakes late, since the machine is
busy, makes nobody wait for more than the piece that it has in hand.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

Work = Callable[[int, Any], None]


class Crew:
    """The thread that calls `run`, and others beside it.

    Args:
        threads: all of them together; those beside the caller's wait between calls, and end with the crew.
    """

    def __init__(self, threads: int):
        self._pieces: list[deque[tuple[Work, Any]]] = [deque() for _ in range(threads)]
        self._failed: list[BaseException] = []
        self._helpers = [_Helper(place, self._pieces, self._failed) for place in range(1, threads)]
        self._end = weakref.finalize(self, _dismiss, self._helpers)

    def run(self, work: Work, pieces: Sequence[Sequence[Any]]) -> None:
        """Calls `work(place, piece)` for every piece, on any thread; `place` is its number from 0 on.

        Args:
            pieces: those that each thread begins with, in this order.

        Raises:
            whatever a piece raised first; the rest is done nevertheless.
        """
        for own, given in zip(self._pieces, pieces, strict=True):
            own.extend((work, piece) for piece in given)
        for helper in self._helpers:
            helper.wake()
        _work_off(0, self._pieces, self._failed)
        for helper in self._helpers:
            helper.wait()
        if self._failed:
            first = self._failed[0]
            self._failed.clear()
            raise first

    def close(self) -> None:
        """Ends the threads."""
        self._end()


class _Helper:
    """A thread beside the caller's."""

    def __init__(self, place: int, pieces: list[deque[tuple[Work, Any]]], failed: list[BaseException]):
        self._asleep, self._at_work = threading.Lock(), threading.Lock()
        self._asleep.acquire()
        self._ended = False
        self._thread = threading.Thread(target=self._serve, args=(place, pieces, failed), daemon=True)
        self._thread.start()

    def _serve(self, place: int, pieces: list[deque[tuple[Work, Any]]], failed: list[BaseException]) -> None:
        while True:
            self._asleep.acquire()
            if self._ended:
                return
            with self._at_work:
                _work_off(place, pieces, failed)

    def wake(self) -> None:
        """Has it look for pieces; one that has not looked since it was woken last will."""
        if self._asleep.locked():
            self._asleep.release()

    def wait(self) -> None:
        """Returns when it has no piece in hand."""
        with self._at_work:
            pass

    def end(self) -> None:
        """Ends the thread."""
        self._ended = True
        self.wake()
        self._thread.join()


def _dismiss(helpers: Sequence[_Helper]) -> None:
    for helper in helpers:
        helper.end()


def _work_off(place: int, pieces: list[deque[tuple[Work, Any]]], failed: list[BaseException]) -> None:
    """Does one's own pieces from the first on, then the others' from the last on."""
    for k in range(len(pieces)):
        others = pieces[(place + k) % len(pieces)]
        while others:
            try:
                work, piece = others.popleft() if k == 0 else others.pop()
            except IndexError:  # another thread was quicker
                break
            try:
                work(place, piece)
            except BaseException as error:
                failed.append(error)
