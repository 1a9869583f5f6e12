"""Where compiled kernels are kept: one folder for each version of the kernel sources.

Numba notices an edit in the file of a cached function, but not in a callee of another file: it would go on with the
old callee. The folder therefore carries a hash of every source file of this package.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"


@cache
def sources_digest() -> str:
    """SHA-256 [hex] over names and contents of the Python files of `sim_core` and `agents` that hold kernels."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for package in ("sim_core", "agents"):
        for path in sorted((root / package).rglob("*.py")):
            source = path.read_bytes()
            if b"numba" in source or b"import kernel" in source or b"np.dtype" in source:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + source + b"\0")
    return digest.hexdigest()


def install() -> None:
    """Points Numba's cache at this version's folder, below NUMBA_CACHE_DIR or else the user's cache folder."""
    folder = f"kernels-{sources_digest()[:16]}"
    given = os.environ.get(_VARIABLE)
    if given and Path(given).name == folder:  # inherited from a parent process that was here before
        return
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "devops-sim"
    os.environ[_VARIABLE] = str(base / folder)
    if "numba" in sys.modules:
        sys.modules["numba"].config.reload_config()
