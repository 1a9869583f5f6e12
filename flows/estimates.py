"""How long a command will take in the request engine, told before it begins: a wrong zero costs hours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from flows.terminal.output import say as say_on_stderr
from sim_core.engines import LONG_S, REQUESTS, estimate

if TYPE_CHECKING:
    from sim_core.world import Lane


def tell_time(
    engine: str,
    lanes: Iterable[tuple[Lane, float]],
    times: int = 1,
    threads: int = 1,
    say: Callable[[str], None] = say_on_stderr,
) -> None:
    """Say how many requests there are and how long they take, where they are played one by one and it takes long.

    Args:
        engine: that is asked for; the fluid one has nothing to tell.
        lanes: each with how long it is played [s].
        times: how often each is played: once under every policy.
        threads: threads or actors that share the lanes.
        say: prints a line.
    """
    if engine != REQUESTS:
        return
    expected = estimate(lanes, threads).times(times)
    if expected.seconds >= LONG_S:
        say(f"--engine requests: {expected.words()}")
