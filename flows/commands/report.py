"""`devops-sim report`: the report of a finished sweep, made again from what is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.report import comparison_text, report_data, write_pictures, write_report
from experiments.store.results import ResultStore
from experiments.store.state import StateDir


def make_report(
    name: str | None, output: Path | None, folder: Path | None, pictures: Path | None = None
) -> dict[str, Any]:
    """Write the report of a sweep again; the document of `devops-sim report`.

    Args:
        name: id of the sweep, or name of its specification; None takes the newest.
        output: the HTML file; None writes into the state folder.
        folder: the state folder; None takes the usual one.
        pictures: a folder for the same figures as PNG; None draws none.

    Raises:
        InputError: no such sweep, nothing finished, or a file cannot be written.
    """
    state = StateDir.existing(folder)
    sweep_id = ResultStore(state.results).find(name)
    data = report_data(sweep_id, state)
    path = write_report(data, output or state.reports / f"{sweep_id}.html")
    drawn = write_pictures(data, pictures) if pictures is not None else []
    return {
        "command": "report",
        "sweep_id": sweep_id,
        "report": str(path),
        "pictures": [str(picture) for picture in drawn],
        "text": comparison_text(data),
    }
