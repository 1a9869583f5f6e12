"""Where compiled kernels are kept: one folder for each version of the kernel sources.

Numba notices an edit in the file of a cached function, but not in a callee, a constant or a record type of another file:
it would go on with the old one. The folder therefore carries a hash of every source file that kernels are made of.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from functools import cache
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"

# What a file with kernels, record types or views names. Numba is named with `import`: words about it make no kernel.
_OF_KERNELS = re.compile(r"import numba|from numba|sim_core\.(compiled|tables)\b|np\.dtype")
_IMPORT = re.compile(r"^\s*from ((?:sim_core|agents)[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


def kernel_sources() -> list[Path]:
    """The Python files of `sim_core` and `agents` that hold kernels, record types or views of tables, and those that they
    import constants (named in capitals) from, directly or through others; sorted."""
    root = Path(__file__).parent.parent
    sources = {path: path.read_text("utf-8") for name in ("sim_core", "agents") for path in (root / name).rglob("*.py")}
    found = {path for path, text in sources.items() if _OF_KERNELS.search(text)}
    new = list(found)
    while new:
        for module, names in _IMPORT.findall(sources[new.pop()]):
            path = root.joinpath(*module.split(".")).with_suffix(".py")
            constants = any(name.isupper() for name in re.findall(r"\w+", names))
            if constants and path in sources and path not in found:
                found.add(path)
                new.append(path)
    return sorted(found)


@cache
def sources_digest() -> str:
    """SHA-256 [hex] over names and contents of the files that kernels are made of."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in kernel_sources():
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
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
