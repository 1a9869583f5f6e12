"""What a profile itself says of its pods: how much one can take, and how long one takes to become ready."""

from __future__ import annotations

from functools import lru_cache

from sim_core.dataplane.services.graph import resolve
from sim_core.dataplane.services.profile import Service
from sim_core.profile import Profile

NEVER_CALLED = 1e9  # [1/s]; one pod is enough


def requests_per_pod_s(profile: Profile, service: int, cores: float | None = None) -> float | None:
    """User requests per second that use up one pod of the service [1/s]; None where no request ever asks anything of it.

    What runs out first is its CPU, or its workers, which are held while it waits for others.

    Args:
        cores: CPU that counts as all of a pod's [cores]; None: its limit.
    """
    graph, container = resolve(profile), profile.services[service].container
    cpu_s = graph.cpu_seconds_per_request[service]
    calls = zip(graph.endpoints, graph.endpoint_visits, graph.idle_s, strict=True)
    held_s = sum(visits * idle_s for endpoint, visits, idle_s in calls if endpoint.service == service)
    if held_s == 0.0:
        return None
    by_workers = container.workers / held_s
    return min(by_workers, (cores or container.cpu_limit_cores) / cpu_s) if cpu_s > 0.0 else by_workers


@lru_cache(maxsize=1024)
def calls_per_pod_s(profile: Profile, service: int) -> float:
    """Calls per second that use up what one pod of the service requests [1/s]; NEVER_CALLED where nobody calls it."""
    full_rate = requests_per_pod_s(profile, service, profile.services[service].container.cpu_request_cores)
    return NEVER_CALLED if full_rate is None else full_rate * resolve(profile).visits[service]


def time_to_ready_s(service: Service) -> float:
    """From the wish for a pod until it is ready, a slow start counted in [s]."""
    life = service.lifecycle
    startup_s = life.startup_seconds * (1.0 + life.startup_scv**0.5)
    ready_s = max(startup_s, life.readiness.initial_delay_seconds) + 0.5 * life.readiness.period_seconds
    return life.scheduling_seconds + life.image_pull_seconds + ready_s
