"""Tables that fit the terminal: figures stay whole, names give way, and what is left out is said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ROOMY_NAME = 40  # a name is wrapped to so much before anything happens to the figures
_LEAST_NAME = 16  # below it, columns are left out instead


@dataclass(frozen=True)
class Layout:
    """A table as it is printed; cells and titles may have several lines. `left_out` names the columns that had no room."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...] = ()


def fitted(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int, room: int | None, gap: int = 2) -> Layout:
    """The table in so many characters.

    Names are wrapped first, then intervals go under their means, then columns are left out from the right: the first
    one that holds figures always stays.

    Args:
        columns: titles.
        rows: cells, one line each.
        words: how many columns, from the left, hold names; the last of them gives way. The others hold figures.
        room: characters of a line; None leaves the table as it is.
        gap: characters between two columns.
    """
    whole = Layout(tuple(columns), tuple(map(tuple, rows)))
    if room is None or _width(whole, gap) <= room:
        return whole
    stacked = _stacked(whole, words)
    roomy = _named(whole, words, room, gap, _ROOMY_NAME)
    if roomy is not None:
        return roomy
    for count in range(len(columns), words, -1):
        least = max(_LEAST_NAME, room // 4) if count > words + 1 else 1
        layout = _named(_cut(stacked, count), words, room, gap, least)
        if layout is not None:
            return Layout(layout.columns, layout.rows, tuple(columns[count:]))
    return stacked


def shortened(text: str, room: int) -> str:
    """Text in so many characters: what has no room is left out of its middle, since its end often holds a value."""
    if len(text) <= room:
        return text
    tail = room // 2
    return f"{text[: room - 1 - tail]}…{text[len(text) - tail :]}"


def wrapped(text: str, room: int) -> str:
    """Text in lines of so many characters, broken at spaces, further lines indented; longer words are shortened."""
    if len(text) <= room:
        return text
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        indent = "  " if lines and room > 4 else ""
        joined = f"{line} {word}" if line else indent + shortened(word, room - len(indent))
        if line and len(joined) > room:
            lines.append(line)
            indent = "  " if room > 4 else ""
            joined = indent + shortened(word, room - len(indent))
        line = joined
    return "\n".join([*lines, line])


def _named(layout: Layout, words: int, room: int, gap: int, least: int) -> Layout | None:
    """The layout with its names in what the other columns leave, or None if that is less than `least`."""
    at = words - 1
    names = [row[at] for row in layout.rows]
    natural = max(map(len, [layout.columns[at], *names]))
    left = room - _width(layout, gap) + natural
    if left < min(least, natural):
        return None
    rows = tuple((*row[:at], wrapped(row[at], left), *row[words:]) for row in layout.rows)
    columns = (*layout.columns[:at], wrapped(layout.columns[at], left), *layout.columns[words:])
    return Layout(columns, rows)


def _stacked(layout: Layout, words: int) -> Layout:
    """Intervals under their means, and titles of figures in as many lines as the figures are narrow."""
    rows = tuple((*row[:words], *(cell.replace(" [", "\n[", 1) for cell in row[words:])) for row in layout.rows)
    titles = list(layout.columns[:words])
    for index, title in enumerate(layout.columns[words:], start=words):
        figures = max((len(line) for row in rows for line in row[index].split("\n")), default=0)
        titles.append(_broken(title, max(figures, max(map(len, title.split("_"))) + 1)))
    return Layout(tuple(titles), rows)


def _broken(title: str, room: int) -> str:
    """A title in lines of so many characters, broken after underscores."""
    lines = [""]
    for part in re.findall("[^_]*_?", title)[:-1]:
        if lines[-1] and len(lines[-1] + part) > room:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _cut(layout: Layout, count: int) -> Layout:
    return Layout(layout.columns[:count], tuple(row[:count] for row in layout.rows))


def _width(layout: Layout, gap: int) -> int:
    table = [layout.columns, *layout.rows]
    widths = [max(len(line) for row in table for line in re.split("\n", row[i])) for i in range(len(layout.columns))]
    return sum(widths) + gap * (len(widths) - 1)
