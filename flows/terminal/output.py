"""What a command says: one JSON document or a table on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from experiments.analysis.amounts import rounded_down
from flows.terminal.layout import fitted
from sim_core.indicators import CLASS_INDICATORS, GAP_CLOSED, INDICATORS, SERVICE_INDICATORS

_NO_LIMIT = 10_000  # characters of a line that no terminal shows
_SHOWN = {**CLASS_INDICATORS, **SERVICE_INDICATORS, **INDICATORS, GAP_CLOSED.name: GAP_CLOSED}


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
    """Print a table: the first `words` columns to the left, the figures after them to the right.

    It fits a terminal's width; elsewhere nothing is shortened. Figures stand in the order of their importance.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    room = terminal_width()
    layout = fitted(columns, rows, words, room if words < len(columns) else None)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, collapse_padding=True)
    for index, column in enumerate(layout.columns):
        justify: Literal["left", "right"] = "left" if index < words else "right"
        table.add_column(Text(column), justify=justify, no_wrap=index == 0 < words - 1, overflow="fold")
    for row in layout.rows:
        table.add_row(*map(Text, row))
    console = Console(width=room or _NO_LIMIT, height=_NO_LIMIT, highlight=False, markup=False)
    console.print(Text(title, style="italic"))
    console.print(table)
    if layout.left_out:
        wider = "a wider terminal and --json show them"
        console.print(f"No room in {room} columns for {', '.join(layout.left_out)}: {wider}")


def print_text(text: str) -> None:
    """Print a sentence: on a terminal in lines that fit it, elsewhere in one."""
    room = terminal_width()
    print(textwrap.fill(text, room, subsequent_indent="  ", break_on_hyphens=False) if room else text)


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; $COLUMNS, if set, has the last word. None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def figure(name: str, value: float | None) -> str:
    """One figure as a reader wants it; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    indicator = _SHOWN.get(name)
    if indicator is not None and indicator.rounded_down:
        decimals = int(indicator.digits[1:-1])
        return f"{rounded_down(100.0 * value, decimals):.{decimals}f}%"
    return format(value, indicator.digits if indicator is not None else ".4g")


def with_interval(name: str, mean: float | None, low: float | None, high: float | None) -> str:
    """`mean [low, high]`; the mean alone where there is no interval (fewer than three seeds) or its digits are the same."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return figure(name, mean)
    shown, least, most = figure(name, mean), figure(name, low), figure(name, high)
    return shown if least == shown == most else f"{shown} [{least}, {most}]"


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
