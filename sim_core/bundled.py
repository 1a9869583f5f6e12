"""What comes with the package, by the names of its files: help, completion and refusals need no simulator for that."""

from __future__ import annotations

from pathlib import Path

from sim_core.errors import InputError, nearest

PROFILES = Path(__file__).parent / "profiles"
TRAFFICS = Path(__file__).parent / "workload" / "models"


def names_in(folder: Path) -> list[str]:
    """Names of the documents in a folder of the package, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def check_traffic(name: str) -> None:
    """Refuse the name of a generator that there is not.

    Raises:
        InputError: unknown; names those there are.
    """
    known = names_in(TRAFFICS)
    if name not in known:
        raise InputError(f"traffic '{name}'", f"unknown generator (known: {', '.join(known)}){nearest(name, known)}")
