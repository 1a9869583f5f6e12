"""Vector files: finding them, running their cases, comparing what came out with what they expect."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance import hpa_case

KINDS = {**hpa_case.KINDS}
SETS = {*hpa_case.SETS}


@dataclass(frozen=True)
class Outcome:
    """Of one case; `problem` says in one line why it failed, and is empty when it passed."""

    id: str
    problem: str


def vector_files(folder: Path) -> Iterator[tuple[Path, list[Any]]]:
    """The vector files of a folder, objects with a list `cases`, by name; other files are left out.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(folder)
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            print(f"{path}: left out, not readable as JSON: {error}", file=sys.stderr)
            continue
        if isinstance(content, dict) and isinstance(content.get("cases"), list):
            yield path, content["cases"]


def run_case(case: Any) -> Outcome:
    """Runs one case; whatever goes wrong with it makes it fail, never the run."""
    name = str(case.get("id", "(no id)")) if isinstance(case, dict) else "(no object)"
    try:
        run = KINDS.get(case["kind"])
        if run is None:
            return Outcome(name, f"unknown kind {case['kind']!r}")
        return Outcome(name, difference(case["expected"], run(case["input"])))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(name, f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})")


def difference(expected: dict[str, Any], actual: dict[str, Any]) -> str:
    """What differs, or an empty string. A case may assert less than comes out; an error comes out alone."""
    parts = []
    for key, value in expected.items():
        got = actual.get(key, "nothing")
        if key in SETS and isinstance(got, list):
            value, got = sorted(value), sorted(got)
        if got != value or isinstance(got, bool) != isinstance(value, bool):
            parts.append(f"{key}: expected {value}, got {got}")
    return "; ".join(parts)
