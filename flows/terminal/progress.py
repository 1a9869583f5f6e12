"""Progress on standard error: moving bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from flows.terminal.output import is_quiet

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_PLAIN_PERIOD_S = 5.0  # between two plain lines of one stage


class Progress:
    """Stages of a long command, each counted against its total.

    Enter it, call `update(stage, done, total)` as often as you like, and leave it.
    """

    def __init__(self) -> None:
        self._begin_s = time.monotonic()
        self._bars: RichProgress | None = None
        self._stages: dict[str, TaskID] = {}
        self._said: dict[str, tuple[float, float]] = {}  # stage -> (when, how much)

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not is_quiet():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description:<12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bars = RichProgress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Show that `done` of `total` units of the stage are behind us, with a short note."""
        if self._bars is not None:
            if stage not in self._stages:
                self._stages[stage] = self._bars.add_task(stage, total=total, note=note)
            self._bars.update(self._stages[stage], completed=int(done), total=int(total), note=note)
            return
        now_s = time.monotonic()
        said_s, said_done = self._said.get(stage, (-_PLAIN_PERIOD_S, -1.0))
        if done != said_done and (done >= total or now_s - said_s >= _PLAIN_PERIOD_S):
            self._said[stage] = (now_s, done)
            self.say(f"{stage}: {done:,.0f} of {total:,.0f}{'  ' + note if note else ''}")

    def say(self, message: str) -> None:
        """One line beside the bars; none under --quiet."""
        if is_quiet():
            return
        if self._bars is not None:
            self._bars.console.print(message, highlight=False, markup=False)
        else:
            print(f"[{time.monotonic() - self._begin_s:6.1f} s] {message}", file=sys.stderr, flush=True)
