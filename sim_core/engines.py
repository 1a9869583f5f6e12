"""The engines that serve requests: their names, what they mean, and how long one of them will take.

Both play the same worlds, under the same control plane and the same arrivals; only how requests are served differs. Light:
names are checked, and completed by a shell, before the simulator is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from sim_core.errors import InputError, nearest

if TYPE_CHECKING:
    from sim_core.profile import Profile
    from sim_core.world import Lane

# Measured by `devops-sim bench`; machines differ by a factor of two or three.
CALLS_PER_CPU_S = (
    1.3e6  # of the request engine, `production` at 70 %: one call a request, with its look-ups and queries
)
SERVICE_TICKS_PER_CPU_S = 2.5e6  # of the fluid engine
# Pods and requests in flight with which a call takes twice as long as where all of them lie in the CPU's cache: 30 services
# of 2,000 pods each took 1.7 to 2.3 times as long, from a small load up to saturation.
FAR_APART = 50_000.0
USUAL_UTILIZATION = 0.7  # of the CPU request of pods that an autoscaler keeps, or whoever sizes them
LONG_S = 10.0  # what takes longer is told before it begins


class Engine(NamedTuple):
    """One way to serve requests."""

    name: str
    meaning: str


FLUID, REQUESTS = "fluid", "requests"
ENGINES = (
    Engine(FLUID, "flows and backlogs in each tick, hundreds of times faster"),
    Engine(REQUESTS, "every request is an event, exact for the model"),
)
NAMES = tuple(engine.name for engine in ENGINES)


def check_engine(name: str, where: str = "engine") -> str:
    """The name of the engine, if it is one.

    Args:
        where: what it was given as, for the error.

    Raises:
        InputError: unknown; names the nearest.
    """
    if name not in NAMES:
        raise InputError(where, f"must be one of {', '.join(NAMES)}{nearest(str(name), NAMES)} (got {name!r})")
    return name


def engine_named(name: str) -> Engine:
    """The engine of that name.

    Raises:
        InputError: unknown; names the nearest.
    """
    return ENGINES[NAMES.index(check_engine(name))]


def described() -> str:
    """The engines in one line, for help texts."""
    return "; ".join(f"{engine.name} ({engine.meaning})" for engine in ENGINES)


class Estimate(NamedTuple):
    """What a run will cost before it is made.

    Attributes:
        requests: that arrive, on the mean, over all lanes.
        seconds: of wall time in the request engine [s].
        fluid_s: of the same in the fluid engine [s].
        threads: that share the work.
    """

    requests: float
    seconds: float
    fluid_s: float
    threads: int

    def times(self, count: int) -> Estimate:
        """The same so many times, one after the other."""
        return Estimate(self.requests * count, self.seconds * count, self.fluid_s * count, self.threads)

    def words(self, option: str = "--engine") -> str:
        """`about 4.3 billion requests, each an event: about 55 min on 1 thread; --engine fluid takes about 1 s`."""
        on = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return (
            f"about {_amount(self.requests)} requests, each an event: about {_time(self.seconds)} on {on}; "
            f"{option} fluid takes about {_time(self.fluid_s)}"
        )


def estimate(lanes: Iterable[tuple[Lane, float]], threads: int = 1) -> Estimate:
    """What playing lanes will take in the request engine, from mean rates of their traffic and measured speeds.

    Args:
        lanes: each with how long it is played [s], which its trace must reach.
        threads: lanes are shared among them; one lane runs on one thread.
    """
    requests, seconds, longest_s, fluid_s, count = 0.0, 0.0, 0.0, 0.0, 0
    arrivals: dict[tuple[str, float, float], float] = {}
    for lane, duration_s in lanes:
        window = lane.trace.digest, lane.start_s, duration_s
        if window not in arrivals:
            end_s = min(lane.start_s + duration_s, lane.trace.duration_s)
            arrivals[window] = lane.trace.slice(lane.start_s, end_s).mean_per_s * duration_s
        calls = arrivals[window] * calls_per_request(lane.profile)
        took_s = calls * slowed_down(lane.profile, arrivals[window] / duration_s) / CALLS_PER_CPU_S
        requests += arrivals[window]
        seconds += took_s
        longest_s = max(longest_s, took_s)
        fluid_s += len(lane.profile.services) * duration_s / lane.profile.tick_seconds / SERVICE_TICKS_PER_CPU_S
        count += 1
    used = max(1, min(threads, count))
    return Estimate(requests, max(seconds / used, longest_s), fluid_s / used, used)


def calls_per_request(profile: Profile) -> float:
    """Calls of services that a request makes on the mean, at least one."""
    from sim_core.dataplane.services.graph import resolve

    return max(1.0, sum(resolve(profile).visits))


def slowed_down(profile: Profile, requests_per_s: float) -> float:
    """How many times as long a call takes as in a small world, whose pods and requests all lie in the CPU's cache [1].

    What the load holds in flight is meant, on a system of the usual size: overload holds more.
    """
    from sim_core.dataplane.services.graph import resolve

    graph = resolve(profile)
    cores = [service.container.cpu_request_cores for service in profile.services]
    pods_per_rate = sum(cpu_s / own for cpu_s, own in zip(graph.cpu_seconds_per_request, cores, strict=True))
    held = requests_per_s * (pods_per_rate / USUAL_UTILIZATION + graph.mean_idle_s)
    return 1.0 + math.log2(1.0 + held / FAR_APART)


def _amount(count: float) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= size:
            return f"{_two_digits(count / size)} {name}"
    return f"{count:.0f}"


def _time(seconds: float) -> str:
    for size, name in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2.0 * size:
            return f"{_two_digits(seconds / size)} {name}"
    return f"{max(1.0, seconds):.0f} s"


def _two_digits(value: float) -> str:
    return f"{value:.1f}" if value < 10.0 else f"{value:.0f}"
