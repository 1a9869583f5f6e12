"""What comes with the package, by the names of its files: help, completion and refusals need no simulator for that."""

from __future__ import annotations

from pathlib import Path

from sim_core.errors import InputError, nearest

PROFILES = Path(__file__).parent / "profiles"
EXAMPLES = Path(__file__).parents[1] / "experiments" / "profiles"  # of graphs of services
TRAFFICS = Path(__file__).parent / "workload" / "models"


def names_in(folder: Path) -> list[str]:
    """Names of the documents in a folder of the package, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def profile_names() -> list[str]:
    """Names of all profiles that come with the package: the three environments, then the examples of graphs."""
    return [*names_in(PROFILES), *names_in(EXAMPLES)]


def profile_file(name: str) -> Path | None:
    """The file of a profile that comes with the package; None where there is none of that name."""
    folder = next((folder for folder in (PROFILES, EXAMPLES) if name in names_in(folder)), None)
    return None if folder is None else folder / f"{name}.yaml"


def check_traffic(name: str) -> None:
    """Refuse the name of a generator that there is not.

    Raises:
        InputError: unknown; names those there are.
    """
    known = names_in(TRAFFICS)
    if name not in known:
        raise InputError(f"traffic '{name}'", f"unknown generator (known: {', '.join(known)}){nearest(name, known)}")
