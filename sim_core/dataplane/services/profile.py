"""Services in a profile: Deployments, what their endpoints do, who calls them how, and the kinds of requests."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from sim_core.dataplane.services.kinds import RETRY_SLOTS
from sim_core.documents import Location, Number, Problem, Section

MAX_SERVICES = 200
MAX_PODS = 5000  # a service
MAX_ENDPOINTS = 50  # a service
MAX_STEPS = 100  # an endpoint or a branch
MAX_CLASSES = 50
MAX_SHARES = 1440  # a class: one a minute
MAX_BALANCER_NODES = 64
MAX_POLICIES = 8  # of an autoscaler, a direction
MAX_LOG = 255  # recommendations and scale events that an autoscaler remembers
MAX_RETRY_TICKS = RETRY_SLOTS - 1  # a retry lies at most so far ahead
LEAST_CORES = 0.001  # of a CPU: Kubernetes counts in milli-cores
LEAST_QUERIES = 1e-6  # of a call, where it makes any
LEAST_SECONDS = 1e-6  # of work: no service time may vanish beside the others, nor its square

_LABEL = r"[a-z]([-a-z0-9]*[a-z0-9])?"

DnsLabel = Annotated[str, Field(pattern=f"^{_LABEL}$", max_length=63)]
Balancing = Literal["random", "round_robin", "least_outstanding", "power_of_two"]
Target = Annotated[str, Field(pattern=rf"^{_LABEL}(\.{_LABEL})?$", max_length=127)]


class Replicas(Section):
    """How many pods of a service there may be."""

    initial: int | None = Field(
        default=None,
        ge=1,
        le=MAX_PODS,
        description="Pods at the start [pods]; null: sized for the first load of the trace.",
    )
    min: int = Field(
        default=1, ge=1, le=MAX_PODS, description="HPA minReplicas [pods]; default: that of autoscaling/v2."
    )
    max: int = Field(ge=1, le=MAX_PODS, description="HPA maxReplicas [pods].")


class Container(Section):
    """The application container of a pod, and what a request costs it."""

    cpu_request_cores: Number = Field(
        ge=LEAST_CORES, le=256, description="resources.requests.cpu [cores]; HPA utilization is a share of it."
    )
    cpu_limit_cores: Number = Field(
        ge=LEAST_CORES, le=256, description="resources.limits.cpu [cores]; CFS throttles above it."
    )
    memory_request_gib: Number = Field(gt=0, le=4096, description="resources.requests.memory [GiB]; it costs money.")
    workers: int = Field(
        ge=1, le=10_000, description="Requests that a pod works on at once (threads, processes) [requests]."
    )
    cpu_seconds_per_request: Number | None = Field(
        default=None,
        ge=LEAST_SECONDS,
        le=60,
        description="Mean CPU time of one call, warm [s of one core]; null: the steps of the endpoints say it.",
    )
    cpu_scv: Number | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Squared coefficient of variation of the CPU time [1]; 1 is exponential; null: as above.",
    )
    io_seconds_per_request: Number | None = Field(
        default=None,
        ge=0,
        le=60,
        description="Mean time a call waits without burning CPU, apart from database and cache [s]; exponential; "
        "null: as above.",
    )
    queue_limit: int = Field(
        ge=0,
        le=100_000,
        description="Requests that wait in a pod while all workers are busy; more are refused with 503 [requests].",
    )
    cpu_sharing: Literal["fifo", "processor_sharing", "cfs_quota"] = Field(
        default="processor_sharing",
        description="How a pod's calls share its CPU: fifo runs one to its end (an event loop), processor_sharing gives "
        "all the same share (threads), cfs_quota runs all at full speed until the period's quota is used up.",
    )
    cfs_quota_period_seconds: Number = Field(
        default=0.1, ge=0.001, le=1, description="cpu.cfs_period_us, for cfs_quota [s]; default: Linux' 100 ms."
    )


class Client(Section):
    """How the callers of a service behave when it is slow or refuses."""

    timeout_seconds: Number = Field(gt=0, le=300, description="The caller gives up after this time [s].")
    max_retries: int = Field(ge=0, le=3, description="Attempts after the first one [attempts].")
    backoff_seconds: Number = Field(
        ge=0, le=60, description="Mean wait before the first retry, doubled before each further one [s]."
    )
    retry_budget_ratio: Number = Field(
        ge=0,
        le=1,
        description="Retries may add at most this share to fresh requests [1]; Finagle and Linkerd default to 0.2.",
    )


class ClientChanges(Section):
    """What one caller does otherwise than the callee's `client` says; null: as there."""

    timeout_seconds: Number | None = Field(
        default=None, gt=0, le=300, description="This caller gives up after this time [s]."
    )
    max_retries: int | None = Field(default=None, ge=0, le=3, description="Attempts after the first one [attempts].")
    backoff_seconds: Number | None = Field(
        default=None, ge=0, le=60, description="Mean wait before the first retry, doubled before each further one [s]."
    )
    retry_budget_ratio: Number | None = Field(
        default=None, ge=0, le=1, description="Retries may add at most this share to fresh requests [1]."
    )


class CircuitBreaker(Section):
    """Envoy's circuit breaker of a cluster, in each node of the caller's balancer."""

    max_requests: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Open calls of a node beyond which further ones fail at once [calls]; default: Envoy's.",
    )


class OutlierEjection(Section):
    """Envoy's outlier detection: a pod that fails again and again is left out for a while."""

    consecutive_failures: int = Field(
        default=5, ge=1, le=10_000, description="consecutive_5xx: failures in a row [calls]; default: Envoy's."
    )
    base_ejection_seconds: Number = Field(
        default=30,
        gt=0,
        le=3600,
        description="base_ejection_time [s], times how often the pod was ejected; default: Envoy's.",
    )
    max_ejection_share: Number = Field(
        default=0.1,
        ge=0,
        le=1,
        description="max_ejection_percent: share of the pods out at once [1]; default: Envoy's.",
    )


class Edge(Section):
    """How one caller calls one service."""

    service: DnsLabel = Field(description="The callee's name.")
    client: ClientChanges | None = Field(default=None, description="Timeouts and retries; null: the callee's `client`.")
    pass_deadline: bool = Field(
        default=False,
        description="Whether the callee learns when its caller gives up, and drops what it has not started by then.",
    )
    circuit_breaker: CircuitBreaker | None = Field(default=None, description="Limit of open calls; null: none.")
    outlier_ejection: OutlierEjection | None = Field(default=None, description="Ejection of pods; null: none.")


class Readiness(Section):
    """readinessProbe of the container."""

    initial_delay_seconds: Number = Field(
        default=0, ge=0, le=3600, description="initialDelaySeconds [s]; default: the API's."
    )
    period_seconds: Number = Field(default=10, ge=1, le=3600, description="periodSeconds [s]; default: the API's.")


class Lifecycle(Section):
    """Life of a pod from its creation to its removal."""

    scheduling_seconds: Number = Field(ge=0, le=3600, description="From creation until the pod is bound to a node [s].")
    image_pull_seconds: Number = Field(
        ge=0, le=3600, description="From binding until the container runs: pull and create [s]."
    )
    startup_seconds: Number = Field(
        ge=0, le=3600, description="Mean time from container start until it can answer [s]."
    )
    startup_scv: Number = Field(ge=0, le=100, description="Squared coefficient of variation of the start-up time [1].")
    startup_cpu_cores: Number = Field(
        ge=0, le=256, description="CPU burned while starting [cores]; the autoscaler may see it."
    )
    readiness: Readiness = Field(description="When a started pod gets traffic.")
    cold_seconds: Number = Field(
        ge=0, le=3600, description="How long a ready pod stays slow: JIT, empty caches, connections [s]."
    )
    cold_factor: Number = Field(
        ge=1, le=100, description="CPU time of a call on a cold pod over that on a warm one [1]."
    )
    termination_seconds: Number = Field(
        ge=0,
        le=3600,
        description="From deletion until the pod is gone: preStop and draining [s]; it holds its resources so long.",
    )


class Queries(Section):
    """What one call of a service asks of cache and database; by default nothing."""

    reads_per_call: Number = Field(default=0, ge=0, le=1000, description="Mean reads of one call [queries].")
    writes_per_call: Number = Field(default=0, ge=0, le=1000, description="Mean writes of one call [queries].")
    cacheable_share: Number = Field(
        default=0, ge=0, le=1, description="Share of the reads that ask the cache first [1]."
    )


class ScalingPolicy(Section):
    """HPAScalingPolicy of autoscaling/v2."""

    type: Literal["Pods", "Percent"] = Field(description="What `value` counts.")
    value: int = Field(gt=0, le=2**31 - 1, description="Change allowed within the period [pods or %].")
    period_seconds: int = Field(ge=1, le=1800, description="periodSeconds [s]; range: the API's.")


class ScalingRules(Section):
    """HPAScalingRules of autoscaling/v2; what is left out is filled with the API's defaults of the direction."""

    stabilization_window_seconds: int | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="stabilizationWindowSeconds [s]; null: 0 for scale-up, the controller's window for scale-down.",
    )
    select_policy: Literal["Max", "Min", "Disabled"] | None = Field(
        default=None, description="selectPolicy: which policy's limit counts; null: Max."
    )
    policies: tuple[ScalingPolicy, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_POLICIES,
        strict=False,
        description="Limits of the pace; null: up 4 pods or 100 % in 15 s, down 100 % in 15 s.",
    )


class Behavior(Section):
    """HorizontalPodAutoscalerBehavior of autoscaling/v2."""

    scale_up: ScalingRules | None = Field(default=None, description="Rules for more pods; null: the API's defaults.")
    scale_down: ScalingRules | None = Field(default=None, description="Rules for fewer pods; null: the API's defaults.")


class Autoscaler(Section):
    """HorizontalPodAutoscaler on CPU utilization."""

    target_cpu_utilization_pct: int = Field(
        default=80, ge=1, le=1000, description="averageUtilization of the CPU request [whole %]; default: Kubernetes'."
    )
    behavior: Behavior | None = Field(default=None, description="null: the HPA has no behavior field set.")


_PROBABILITY = "Probability that the step is done at all [1]."


class CpuStep(Section):
    """Work on the pod's CPU."""

    seconds: Number = Field(ge=LEAST_SECONDS, le=60, description="Mean CPU time, warm [s of one core].")
    scv: Number = Field(
        default=1.0, ge=0, le=100, description="Squared coefficient of variation of it [1]; 1 is exponential."
    )
    probability: Number = Field(default=1.0, ge=LEAST_QUERIES, le=1, description=_PROBABILITY)


class WaitStep(Section):
    """Waiting that burns no CPU: another system, a disk, a lock."""

    seconds: Number = Field(ge=0, le=60, description="Mean time [s].")
    scv: Number = Field(
        default=1.0, ge=0, le=100, description="Squared coefficient of variation of it [1]; 1 is exponential."
    )
    probability: Number = Field(default=1.0, ge=LEAST_QUERIES, le=1, description=_PROBABILITY)


class CallStep(Section):
    """A synchronous call: the worker is held until the answer."""

    endpoint: Target = Field(
        description="`service.endpoint`, or `service` alone where the service has no endpoints of its own."
    )
    count: Number = Field(
        default=1.0, ge=0.001, le=100, description="Mean number of such calls, one after the other [calls]."
    )
    probability: Number = Field(default=1.0, ge=LEAST_QUERIES, le=1, description=_PROBABILITY)


class QueryStep(Section):
    """Queries, one after the other."""

    count: Number = Field(default=1.0, ge=LEAST_QUERIES, le=1000, description="Mean number [queries].")
    probability: Number = Field(default=1.0, ge=LEAST_QUERIES, le=1, description=_PROBABILITY)


class Step(Section):
    """One thing that an endpoint does: exactly one of these keys."""

    cpu: CpuStep | None = Field(default=None, description="Work on the pod's CPU.")
    wait: WaitStep | None = Field(default=None, description="Waiting that burns no CPU.")
    call: CallStep | None = Field(default=None, description="A call of another endpoint.")
    parallel: tuple[Annotated[tuple[Step, ...], Field(strict=False, max_length=MAX_STEPS)], ...] | None = Field(
        default=None,
        max_length=MAX_STEPS,
        strict=False,
        description="Branches, each a list of steps, begun together; the slowest ends the step.",
    )
    cached_read: QueryStep | None = Field(default=None, description="Reads that ask the cache first.")
    read: QueryStep | None = Field(default=None, description="Reads of the database.")
    write: QueryStep | None = Field(default=None, description="Write transactions of the database.")

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


STEP_KEYS = tuple(Step.model_fields)


class Endpoint(Section):
    """What a service does for one kind of call."""

    name: DnsLabel = Field(description="DNS label, unique in the service.")
    steps: tuple[Step, ...] = Field(
        min_length=1, max_length=MAX_STEPS, strict=False, description="What it does, one after the other."
    )


class Service(Section):
    """A Deployment with its HPA, and the clients that call it."""

    name: DnsLabel = Field(description="DNS label, unique in the profile.")
    calls_per_request: Number = Field(
        default=1.0,
        ge=0.001,
        le=100,
        description="Mean visits that one request of a user makes to this service [calls]; for profiles without `requests`.",
    )
    replicas: Replicas = Field(description="How many pods.")
    container: Container = Field(description="What a pod is given and what a call costs.")
    client: Client = Field(description="Timeouts and retries of its callers.")
    lifecycle: Lifecycle = Field(description="Start, readiness, warm-up and end of a pod.")
    queries: Queries = Field(default=Queries(), description="What a call asks of cache and database.")
    autoscaler: Autoscaler = Field(description="The HPA that steers it unless a policy does.")
    endpoints: tuple[Endpoint, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ENDPOINTS,
        strict=False,
        description="Kinds of calls; null: one, with the container's times and the service's queries.",
    )
    calls: tuple[Edge, ...] = Field(
        default=(), max_length=MAX_SERVICES, strict=False, description="How it calls others, where not as by default."
    )
    load_balancing: Balancing | None = Field(
        default=None, description="How a pod is chosen for a call; null: the ingress's."
    )
    balancer_nodes: int | None = Field(
        default=None, ge=1, le=MAX_BALANCER_NODES, description="Nodes of its balancer [nodes]; null: the ingress's."
    )
    slow_start_seconds: Number | None = Field(
        default=None, ge=0, le=3600, description="Slow start of fresh pods [s]; null: the ingress's."
    )
    sticky_share: Number | None = Field(
        default=None, ge=0, le=1, description="Share of sticky calls [1]; null: the ingress's."
    )


class Ingress(Section):
    """Load balancer in front of the services; its rule also spreads the calls between them, unless they say otherwise."""

    load_balancing: Balancing = Field(
        description="How a pod is chosen: kube-proxy in iptables mode is random, NGINX is round_robin by default, "
        "least_outstanding sends to the pod with the fewest open requests (ALB), power_of_two to the better of two "
        "random ones (Envoy LEAST_REQUEST)."
    )
    balancer_nodes: int = Field(
        default=1,
        ge=1,
        le=MAX_BALANCER_NODES,
        description="Proxies that balance, each of which knows only the calls that it sent itself [nodes].",
    )
    slow_start_seconds: Number = Field(
        default=0,
        ge=0,
        le=3600,
        description="Time over which the weight of a fresh pod grows from 0.1 to 1 [s]; 0: at once (ALB, Envoy: off).",
    )
    sticky_share: Number = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of the calls that go to the pod of their session, whatever its load [1].",
    )
    latency_seconds: Number = Field(
        ge=0, le=10, description="Mean time of TLS termination and proxying of a request [s]."
    )
    scv: Number = Field(
        ge=0, le=100, description="Squared coefficient of variation of that time [1]; 0 constant, 1 exponential."
    )
    calls: tuple[Edge, ...] = Field(
        default=(), max_length=MAX_SERVICES, strict=False, description="How it calls services, where not as by default."
    )


class ClassSlo(Section):
    """What was promised for one kind of requests."""

    objective: Number = Field(gt=0, lt=1, description="Share of its valid requests that must be good [1].")
    latency_threshold_seconds: Number = Field(
        ge=0.001, le=60, description="A slower answer is not a good one, end to end as the client sees it [s]."
    )


class RequestClass(Section):
    """A kind of requests: where it enters, and how much of the traffic it is."""

    name: DnsLabel = Field(description="DNS label, unique among the classes.")
    share: Number | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Its weight in the traffic, over the sum of all classes' [1]; or `shares`.",
    )
    shares: tuple[Annotated[Number, Field(ge=0, le=1_000_000)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_SHARES,
        strict=False,
        description="Its weight over the day, in equal steps from midnight (24: one an hour) [1]; or `share`.",
    )
    endpoint: Target | None = Field(
        default=None, description="What it calls: `service.endpoint`, or `service`; or `calls`."
    )
    calls: tuple[CallStep, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_SERVICES,
        strict=False,
        description="Several calls that the ingress makes for it, one after the other; or `endpoint`.",
    )
    slo: ClassSlo | None = Field(
        default=None, description="A promise of its own, beside the whole's; null: the whole's."
    )


# --- Rules between fields. Written as "if broken": an invalid number reads as NaN and breaks none of them.


def broken_rules(profile: Any) -> Iterator[Problem]:
    """Broken rules between the fields of each service; those of the graph of calls are in `graph_rules.py`."""
    for index, service in enumerate(profile.services):
        for problem in _service_broken(profile, service):
            yield problem._replace(at=("services", index, *problem.at))
    yield from _names_broken("services", profile.services)


def _service_broken(profile: Any, service: Any) -> Iterator[Problem]:
    replicas, container = service.replicas, service.container
    if replicas.min > replicas.max:
        yield Problem(("replicas", "min"), f"must be at most replicas.max {replicas.max}", replicas.min)
    if replicas.initial is not None and replicas.initial < replicas.min:
        yield Problem(("replicas", "initial"), f"must be at least replicas.min {replicas.min}", replicas.initial)
    if replicas.initial is not None and replicas.initial > replicas.max:
        yield Problem(("replicas", "initial"), f"must be at most replicas.max {replicas.max}", replicas.initial)
    limit = f"must be at most container.cpu_limit_cores {container.cpu_limit_cores:g}"
    if container.cpu_request_cores > container.cpu_limit_cores:
        yield Problem(("container", "cpu_request_cores"), limit, container.cpu_request_cores)
    if service.lifecycle.startup_cpu_cores > container.cpu_limit_cores:
        yield Problem(("lifecycle", "startup_cpu_cores"), limit, service.lifecycle.startup_cpu_cores)
    yield from _client_broken(profile, service)
    yield from _work_broken(service)
    for field in ("reads_per_call", "writes_per_call", "cacheable_share"):
        if 0 < getattr(service.queries, field) < LEAST_QUERIES:
            rule = f"must be 0 or at least {LEAST_QUERIES:g}"
            yield Problem(("queries", field), rule, getattr(service.queries, field))
    yield from _behavior_broken(profile, service.autoscaler.behavior)


def _client_broken(profile: Any, service: Any) -> Iterator[Problem]:
    overridden = any(edge.service == service.name and edge.client is not None for edge in profile.ingress.calls)
    if profile.requests is None and not overridden:
        yield from impatience(profile, service.client, ("client",))
    yield from retries_broken(profile, service.client, ("client",))


def impatience(profile: Any, client: Any, at: Location) -> Iterator[Problem]:
    """A timeout of the ingress below the latency threshold, in a profile without kinds of requests."""
    if client.timeout_seconds <= profile.slo.latency_threshold_seconds:
        rule = f"must be greater than slo.latency_threshold_seconds {profile.slo.latency_threshold_seconds:g}"
        yield Problem((*at, "timeout_seconds"), rule, client.timeout_seconds)


def retries_broken(profile: Any, client: Any, at: Location) -> Iterator[Problem]:
    """Retries that lie further ahead than the fluid engine remembers."""
    if client.max_retries > 0:
        backoff_s = client.backoff_seconds * 2 ** (client.max_retries - 1)  # doubles with each attempt
        longest_s = MAX_RETRY_TICKS * profile.tick_seconds
        if client.timeout_seconds + backoff_s > longest_s:
            limit = f"{MAX_RETRY_TICKS} ticks = {longest_s:g} s"
            rule = f"timeout and the last backoff, {backoff_s:g} s, must be at most {limit}"
            yield Problem((*at, "timeout_seconds"), rule, client.timeout_seconds)


def _work_broken(service: Any) -> Iterator[Problem]:
    """Either the container and `queries` say what a call costs, or the steps of the endpoints do."""
    for field in ("cpu_seconds_per_request", "cpu_scv", "io_seconds_per_request"):
        value = getattr(service.container, field)
        if service.endpoints is None and value is None:
            yield Problem(("container", field), "required where a service has no endpoints", value)
        elif service.endpoints is not None and value is not None:
            yield Problem(("container", field), "must be left out beside endpoints: their steps say it", value)
    if service.endpoints is not None:
        for field in ("reads_per_call", "writes_per_call", "cacheable_share"):
            if getattr(service.queries, field) > 0:
                rule = "must be left out beside endpoints: their steps say it"
                yield Problem(("queries", field), rule, getattr(service.queries, field))


def _behavior_broken(profile: Any, behavior: Any) -> Iterator[Problem]:
    for direction in ("scale_up", "scale_down"):
        rules = getattr(behavior, direction, None)
        if rules is None:
            continue
        at: Location = ("autoscaler", "behavior", direction)
        if rules.stabilization_window_seconds is not None:
            at_window = (*at, "stabilization_window_seconds")
            yield from too_long_for_log(profile, at_window, rules.stabilization_window_seconds)
        for index, policy in enumerate(rules.policies or ()):
            yield from too_long_for_log(profile, (*at, "policies", index, "period_seconds"), policy.period_seconds)


def too_long_for_log(profile: Any, at: Location, seconds: float) -> Iterator[Problem]:
    """A window that an autoscaler cannot remember."""
    # One recommendation and at most one scale event a sync are remembered until they are older than the window.
    longest_s = MAX_LOG * profile.controller.sync_period_seconds
    if seconds > longest_s:
        yield Problem(at, f"must be at most {MAX_LOG} x controller.sync_period_seconds = {longest_s:g}", seconds)


def _names_broken(key: str, items: Any) -> Iterator[Problem]:
    for index, first in repeated_names([item.name for item in items]):
        yield Problem((key, index, "name"), f"must be unique; {key}.{first} has it too", items[index].name)


def repeated_names(names: list[Any]) -> Iterator[tuple[int, int]]:
    """Place of each name that stands there before, with the place of the first such; what is no text has no name."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield index, first[name]


# --- What components ask of services


def asks(service: Any) -> bool:
    """Whether calls of a service ask the database, through the cache or not."""
    if service.endpoints is None:
        return bool(service.queries.reads_per_call + service.queries.writes_per_call > 0)
    return any(
        getattr(step, key) is not None for _, step in steps_of(service) for key in ("cached_read", "read", "write")
    )


def steps_of(service: Any) -> Iterator[tuple[Location, Any]]:
    """Every step of the endpoints of a service, those within branches too, and where it stands in the service."""
    for index, endpoint in enumerate(service.endpoints or ()):
        yield from _within(endpoint.steps, ("endpoints", index, "steps"))


def _within(steps: Any, at: Location) -> Iterator[tuple[Location, Any]]:
    for index, step in enumerate(steps):
        yield (*at, index), step
        for number, branch in enumerate(step.parallel or ()):
            yield from _within(branch, (*at, index, "parallel", number))


def queries_broken(profile: Any, fields: tuple[str, ...], keys: tuple[str, ...], needed: str) -> Iterator[Problem]:
    """Queries of services that need a component which the profile does not have.

    Args:
        fields: of `queries`.
        keys: of steps.
        needed: the component's key.
    """
    for index, service in enumerate(profile.services):
        for field in fields:
            if getattr(service.queries, field) > 0:
                at: Location = ("services", index, "queries", field)
                yield Problem(at, f"must be 0 without a {needed}", getattr(service.queries, field))
        for place, step in steps_of(service):
            for key in keys:
                if getattr(step, key) is not None:
                    yield Problem(("services", index, *place, key), f"needs a {needed}", getattr(step, key).count)


# --- Clients and balancers, with what is inherited


def client_of(service: Any, changes: Any) -> Any:
    """The client of a service as one of its callers has it: with the changes of the edge between them, if there are any."""
    if changes is None:
        return service.client
    given = {name: value for name in Client.model_fields if (value := getattr(changes, name)) is not None}
    if isinstance(service.client, Client):
        return service.client.model_copy(update=given)
    return SimpleNamespace(**{name: given.get(name, getattr(service.client, name)) for name in Client.model_fields})
