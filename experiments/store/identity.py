"""What decides a result, as digests: the same inputs under the same sources have the same key."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import agents
import sim_core


def digest(data: Any) -> str:
    """sha256 [hex, 24 digits] of plain data; NaN and infinities are refused."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def sources_digest(folder: Path) -> str:
    """sha256 [hex] over paths and contents of the Python files below a folder, and of digests of the models that lie there."""
    sources = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.sha256")]):
        sources.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sources.hexdigest()


@cache
def simulator_version() -> str:
    """Package version and a digest of the sources of `sim_core`: an edited kernel makes other keys."""
    return f"{version('devops-sim')}+{sources_digest(Path(sim_core.__file__).parent)[:16]}"


@cache
def sources_version() -> str:
    """Version of the simulator and a digest of the sources of `agents`: an edited learner makes another training."""
    return f"{simulator_version()}.{sources_digest(Path(agents.__file__).parent)[:16]}"
