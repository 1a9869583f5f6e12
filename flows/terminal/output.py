"""What a command says: one JSON document or a table on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim_core.indicators import GAP_CLOSED, INDICATORS

_DIGITS = {indicator.name: indicator.digits for indicator in (*INDICATORS.values(), GAP_CLOSED)}


@contextlib.contextmanager
def reserved_stdout() -> Iterator[None]:
    """Send to standard error whatever libraries and child processes print, until the block ends."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def print_json(document: Any) -> None:
    """Print one JSON document; NaN and infinities become null."""
    sys.stdout.write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NumPy, paths and models unwrapped; NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy array or scalar
        return plain(value.tolist())
    if hasattr(value, "model_dump"):  # pydantic
        return plain(value.model_dump(mode="json"))
    return str(value)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> None:
    """Print a table: the first `words` columns to the left, the figures after them to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < words else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def figure(name: str, value: float | None) -> str:
    """One figure as a reader wants it; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    return format(value, _DIGITS.get(name, ".4g"))


def with_interval(name: str, mean: float | None, low: float | None, high: float | None) -> str:
    """`mean [low, high]`, or the mean alone where the interval is unknown, as with a single seed."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return figure(name, mean)
    return f"{figure(name, mean)} [{figure(name, low)}, {figure(name, high)}]"


_quiet = False  # of the whole process: progress comes from many threads


@contextlib.contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """Leave out progress for the block if `quiet`; warnings and errors stay."""
    global _quiet
    before, _quiet = _quiet, quiet
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Whether progress is left out now."""
    return _quiet


def say(message: str) -> None:
    """One line that the user has to know, on standard error."""
    print(message, file=sys.stderr, flush=True)


def announce(message: str) -> None:
    """One line on how it goes, on standard error, unless progress is left out."""
    if not _quiet:
        say(message)
