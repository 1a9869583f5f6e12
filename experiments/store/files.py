"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from sim_core.errors import PlatformError


def write_atomically(path: Path, content: bytes, what: str) -> None:
    """Writes a file whole or not at all: temporary file, fsync, rename. Its folder is made when absent.

    Raises:
        PlatformError: names what could not be written, where, and the remedy; nothing of it is left.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise PlatformError(
            f"cannot store {what} in {path.parent}: {error.strerror or error}; make room or get write permission there "
            "and run the same command again: it resumes after the last stored batch"
        ) from error
