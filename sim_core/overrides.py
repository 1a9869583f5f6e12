"""Other values at dotted paths of a document's plain data: list items by index, and by name where they have one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from sim_core.documents import Location, Section, dotted, list_depth, section_of, shown
from sim_core.errors import nearest

_UNIT = r"(seconds|cores|bytes|pct|ratio|usd\w*|per_\w+)"  # what the names of quantities end in


def override(model: type[Section], data: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """Sets values in plain data, in place.

    Args:
        model: the class of the whole document.
        data: as its `model_dump` gives it.
        overrides: value by path. A section that is null is created when a path leads into it.

    Returns:
        Problem lines: unknown paths, with the nearest known key, and places that are set twice.
    """
    problems, targets = [], dict[Location, str]()
    for path in overrides:
        try:
            _claim(targets, _target(model, data, path), path)
        except LookupError as unknown:
            problems.append(str(unknown.args[0]))
    for target, path in targets.items():
        _put(data, target, overrides[path])
    return problems


def _target(model: type[Section], data: dict[str, Any], path: str) -> Location:
    """Location of a dotted path; LookupError with a problem line when the schema or the data have no such place."""
    if not isinstance(path, str):
        raise LookupError(f"{shown(path)}: a path must be text such as services.0.replicas.max")
    at: list[int | str] = []
    section: type[Section] | None = model
    node: Any = data
    depth = 0  # lists around what `node` is a list of
    for step in path.split("."):
        here = dotted([*at, step])
        if depth > 0:
            index = _item(node or [], step, here)
            at.append(index)
            node, depth = node[index], depth - 1
        elif section is None:
            raise LookupError(f"{here}: unknown key; {dotted(at)} holds a value, not keys")
        elif step not in section.model_fields:
            raise LookupError(_unknown_place(model, data, path, [*at, step], section))
        else:
            annotation = section.model_fields[step].annotation
            section, depth = section_of(annotation), list_depth(annotation)
            at.append(step)
            node = node.get(step) if isinstance(node, dict) else None
    return tuple(at)


def _unknown_place(
    model: type[Section], data: dict[str, Any], path: str, at: list[int | str], section: type[Section]
) -> str:
    """Problem line of a path that leads nowhere: the nearest key beside it, else the nearest path there is."""
    line = f"{dotted(at)}: unknown key"
    hint = nearest(str(at[-1]), section.model_fields)
    return line + (hint or _nearest_path(path, list(_value_paths(model, data))))


def _nearest_path(path: str, known: list[str]) -> str:
    """`; did you mean 'services.api.lifecycle.startup_seconds'?` for a path, a part or the last word of one, or nothing.

    The end of a path counts most, then a last key without its unit, the beginning of one, and one that is spelled alike.
    """
    word = path.rpartition(".")[2]
    leaves = {other: other.rpartition(".")[2] for other in known}
    candidates = (
        [other for other in known if other.endswith(f".{path}")]
        or [
            other for other, leaf in leaves.items() if leaf == word or re.fullmatch(rf"{re.escape(word)}_{_UNIT}", leaf)
        ]
        or [other for other, leaf in leaves.items() if leaf.startswith(f"{word}_")]
        or [other for other, leaf in leaves.items() if leaf in difflib.get_close_matches(word, set(leaves.values()), 1)]
    )
    if not candidates:
        return ""
    best = max(candidates, key=lambda other: difflib.SequenceMatcher(None, path, other).ratio())
    return f"; did you mean '{best}'?"


def _value_paths(section: type[Section], data: Any, prefix: str = "") -> Iterator[str]:
    """Every path that holds a value, list items by name where they have one; sections that are null by their schema."""
    for name, field in section.model_fields.items():
        below, here = section_of(field.annotation), f"{prefix}{name}"
        value = data.get(name) if isinstance(data, dict) else None
        if below is None:
            yield here
        else:
            yield from _paths_within(below, list_depth(field.annotation), value, here)


def _paths_within(section: type[Section], depth: int, value: Any, at: str) -> Iterator[str]:
    if depth == 0:
        yield from _value_paths(section, value, f"{at}.")
        return
    for index, item in enumerate(value or []):
        yield from _paths_within(section, depth - 1, item, f"{at}.{_name_of(item) or index}")


def _name_of(item: Any) -> str | None:
    """How a list item is called in a path, unless by its index; an edge by the service that it leads to."""
    return item.get("name", item.get("service")) if isinstance(item, dict) else None


def _item(items: list[Any], step: str, here: str) -> int:
    names = [_name_of(item) for item in items]
    if step in names:
        return names.index(step)
    if step.isascii() and step.isdigit() and int(step) < len(items):
        return int(step)
    named = [name for name in names if name is not None]
    known = ", ".join(named) or (f"0 to {len(items) - 1}" if items else "none")
    raise LookupError(f"{here}: no such item (there are: {known}){nearest(step, named)}")


def _claim(targets: dict[Location, str], target: Location, path: str) -> None:
    """Remember that a path sets a place; LookupError when another one sets it, a part of it, or the whole around it."""
    for other, other_path in targets.items():
        shared = min(len(other), len(target))
        if other[:shared] == target[:shared]:
            raise LookupError(f"{path}: overlaps with the override {other_path}")
    targets[target] = path


def _put(data: dict[str, Any], target: Location, value: Any) -> None:
    node: Any = data
    for step in target[:-1]:
        if isinstance(step, str) and node.get(step) is None:
            node[step] = {}
        node = node[step]
    node[target[-1]] = deepcopy(value)
