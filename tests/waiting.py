"""Waiting for what happens, however busy the machine is: the only limit is a guard against hanging for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

GUARD_S = 300.0  # on an idle machine; nothing that is waited for takes a tenth of it there
T = TypeVar("T")


def guard_s() -> float:
    """The longest to wait for one thing, by how many want the CPUs now [s]."""
    return GUARD_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def until(condition: Callable[[], T], what: str, process: subprocess.Popen[Any] | None = None) -> T:
    """What the condition returns once it is true; fails where the process that should bring it about has ended."""
    began_s = time.monotonic()
    while True:
        ended = process is not None and process.poll() is not None
        if found := condition():
            return found
        assert not ended, f"the process ended with {process.returncode} before {what}"
        assert time.monotonic() - began_s < guard_s(), f"hangs: no {what} after {time.monotonic() - began_s:.0f} s"
        time.sleep(0.05)


def start(command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
    """A process that Ctrl-C can end: jobs in the background of a shell inherit an ignored SIGINT."""
    return subprocess.Popen(
        [str(word) for word in command],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        **options,
    )


def all_end(processes: Sequence[psutil.Process]) -> bool:
    """Whether all processes end."""
    return not psutil.wait_procs(processes, timeout=guard_s())[1]
