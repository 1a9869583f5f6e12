"""`python -m tests.conformance DIR` runs every vector file of a folder; exit 0: all passed, 1: not all, 2: none."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.runner import run_case, vector_files


def main(arguments: list[str]) -> int:
    """Prints the failing ids, then `N passed, M failed` as the last line; details go to standard error."""
    if len(arguments) != 1:
        print("usage: python -m tests.conformance DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        files = list(vector_files(folder))
    except NotADirectoryError:
        print(f"{folder}: no such folder; give the folder that holds the vector files (*.json)", file=sys.stderr)
        return 2
    if not files:
        print(f"{folder}: holds no vector file (*.json with a list `cases`)", file=sys.stderr)
        return 2
    outcomes = [run_case(case) for _, cases in files for case in cases]
    failed = [outcome for outcome in outcomes if outcome.problem]
    for outcome in failed:
        print(outcome.id)
        print(f"{outcome.id}: {outcome.problem}", file=sys.stderr)
    print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
