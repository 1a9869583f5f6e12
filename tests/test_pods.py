"""Pods: when they are what, who is deleted first, what the autoscaler sees of them, and that none is ever lost.

The pods live on a clock of their own here (`Deployment`), without a data plane: the tests say how much CPU they use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim_core.controlplane.hpa import reconcile_hpa
from sim_core.controlplane.hpa_manifest import hpa_record
from sim_core.controlplane.hpa_metrics import READY, group_pods
from sim_core.controlplane.hpa_records import EVENT, HPA_STATE, RECOMMENDATION
from sim_core.controlplane.pods import (
    NO_USAGE,
    PENDING,
    POD,
    READY_FALSE,
    READY_TRUE,
    RUNNING,
    SAMPLE,
    advance_pods,
    collect_samples,
    create_pod,
    delete_pod,
    measure_pods,
    publish_samples,
    set_replicas,
    start_warm,
)
from sim_core.dataplane.services.records import SERVICE, SERVICE_STATE
from sim_core.limits import MAX_METRICS
from sim_core.randomness import lane_key

KEY = np.uint64(lane_key(1))
ROWS = 64  # pods that a service has room for
SYNC_S, SCRAPE_S, DELAY_S = 15, 15, 10

# A JVM, as in profile `production`, whose start-up always takes the same time.
LIFE = {
    "scheduling_s": 2.0,
    "image_pull_s": 3.0,
    "startup_s": 20.0,
    "startup_scv": 0.0,
    "startup_cores": 0.8,
    "readiness_delay_s": 5.0,
    "readiness_period_s": 5.0,
    "cold_s": 30.0,
    "termination_s": 10.0,
    "request_cores": 1.0,
}


def rows(dtype: np.dtype, *shape: int) -> Any:
    """Zeroed rows whose fields are attributes."""
    return np.zeros(shape, dtype).view(np.recarray)


def service_of(**life: float) -> Any:
    """A service's row."""
    service, values = rows(SERVICE, 1)[0], LIFE | life
    startup_s, log_variance = values.pop("startup_s"), math.log1p(values.pop("startup_scv"))
    service.startup_log_mean = math.log(max(startup_s, 1e-9)) - 0.5 * log_variance
    service.startup_log_sd = math.sqrt(log_variance)
    for name, value in values.items():
        service[name] = value
    return service


def at_least(sync: int, replicas: Sequence[int]) -> int:
    """The plan's replicas at a sync; the last stays."""
    return replicas[min(sync, len(replicas) - 1)]


@dataclass
class Deployment:
    """A service whose ready pods share `used_cores`, from tick to tick of one second.

    Args:
        plan: replicas at each sync; the last stays. An autoscaler takes over where `hpa` is given.
        engine: "fluid" books CPU as one integral of the service, "requests" pod by pod.
    """

    service: Any
    plan: Sequence[int] = (3,)
    used_cores: Callable[[int], float] = lambda second: 0.0
    engine: str = "fluid"
    n_rows: int = ROWS
    hpa: Any = None
    key: Any = KEY
    second: int = 0
    window_start_s: float = 0.0
    sample_time_s: float = -math.inf
    desired: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state, self.pods = rows(SERVICE_STATE, 1)[0], rows(POD, self.n_rows)
        self.samples = rows(SAMPLE, MAX_METRICS, self.n_rows)
        start_warm(self.service, self.state, self.pods, self.plan[0])
        if self.hpa is not None:
            self.hpa_state = rows(HPA_STATE, 1)[0]
            self.recommendations = rows(RECOMMENDATION, self.hpa.n_recommendations)
            self.up_events, self.down_events = rows(EVENT, self.hpa.n_up_events), rows(EVENT, self.hpa.n_down_events)

    @property
    def in_use(self) -> Any:
        """The rows of pods that are there."""
        return self.pods[: self.state.n_pods]

    def sync(self) -> None:
        """What controllers do when they are due."""
        state = self.state
        if self.hpa is None:
            state.desired_replicas = at_least(self.second // SYNC_S, self.plan)
        else:
            self.collect()
            state.desired_replicas = reconcile_hpa(
                self.hpa, self.hpa_state, self.recommendations, self.up_events, self.down_events, self.pods,
                state.n_pods, self.samples, state.desired_replicas, state.n_active, 0, float(self.second),
            )  # fmt: skip
        self.desired.append(int(state.desired_replicas))
        set_replicas(self.service, state, self.pods, self.key, float(self.second))

    def collect(self) -> Any:
        """The answer of the metrics API, one sample a pod."""
        collect_samples(self.state, self.pods, self.samples[0], self.sample_time_s, float(SCRAPE_S))
        return self.samples[0][: self.state.n_pods]

    def serve(self) -> None:
        """A second of work, shared evenly among the ready pods."""
        if self.state.n_ready == 0:
            return
        share_core_s = self.used_cores(self.second) / self.state.n_ready
        if self.engine == "fluid":
            self.state.ready_cpu_core_s += share_core_s
            return
        for pod in self.in_use:
            if pod.ready == READY_TRUE and not pod.deleting:
                pod.cpu_core_s += share_core_s

    def advance(self, seconds: int = 1) -> Deployment:
        """Ticks of one second."""
        for _ in range(seconds):
            now_s = float(self.second)
            if self.second % SYNC_S == 0:
                self.sync()
            advance_pods(self.service, self.state, self.pods, self.window_start_s, now_s)
            self.serve()
            self.second += 1
            if self.second > SCRAPE_S and (self.second - DELAY_S) % SCRAPE_S == 0:
                publish_samples(self.state, self.pods)
                self.sample_time_s = float(self.second - DELAY_S)
            if self.second % SCRAPE_S == 0:
                measure_pods(self.service, self.state, self.pods, self.window_start_s, float(self.second))
                self.window_start_s = float(self.second)
        return self


def growing(to: int = 4, **life: float) -> Deployment:
    """Three warm pods; the fourth is asked for at 30 s."""
    return Deployment(service_of(**life), plan=(3, 3, to))


# --- Life of a pod

# life of a pod that is asked for at 30 s: settings, then when it runs, is ready, is warm [s after it was asked for]
LIVES = {
    "production": ({}, 5, 25, 55),
    "no start-up": ({"startup_s": 0.0, "readiness_delay_s": 0.0}, 5, 5, 35),
    "the first probe comes late": ({"readiness_delay_s": 40.0}, 5, 45, 75),
    "ready between two probes": ({"startup_s": 21.0}, 5, 30, 60),
    "ready exactly at a probe": ({"startup_s": 15.0}, 5, 20, 50),
    "rare probes": ({"readiness_period_s": 60.0}, 5, 70, 100),
    "one probe a second": ({"readiness_period_s": 1.0, "startup_s": 7.0}, 5, 12, 42),
    "already there": ({"scheduling_s": 0.0, "image_pull_s": 0.0}, 0, 20, 50),
    "between two ticks": ({"scheduling_s": 1.3, "image_pull_s": 2.5}, 4, 24, 54),
    "never cold": ({"cold_s": 0.0}, 5, 25, 25),
}


@pytest.mark.parametrize(("changes", "running_s", "ready_s", "warm_s"), LIVES.values(), ids=LIVES.keys())
def test_a_pod_lives_by_the_clock(changes, running_s, ready_s, warm_s):
    """Scheduling, pull, start-up, the probes' period, warm-up: each change is seen in the tick in which it happens."""
    deployment = growing(**changes).advance(31)  # the tick that begins at 30 s is done
    for since_s in range(200):
        pod = deployment.pods[3]
        assert pod.phase == (RUNNING if since_s >= running_s else PENDING), since_s
        assert pod.ready == (READY_TRUE if since_s >= ready_s else READY_FALSE), since_s
        assert pod.cold == (ready_s <= since_s < warm_s), since_s
        if since_s >= ready_s:
            assert pod.ready_transition_s == 30 + ready_s
        deployment.advance()


@given(
    startup_s=st.floats(0.01, 300.0),
    delay_s=st.floats(0.0, 60.0),
    period_s=st.integers(1, 60).map(float),
    scheduling_s=st.floats(0.0, 20.0),
)
def test_a_pod_is_ready_at_the_first_probe_after_it_has_started(startup_s, delay_s, period_s, scheduling_s):
    service = service_of(
        startup_s=startup_s, readiness_delay_s=delay_s, readiness_period_s=period_s, scheduling_s=scheduling_s
    )
    state, pods = rows(SERVICE_STATE, 1)[0], rows(POD, 1)
    create_pod(service, state, pods, KEY, 100.0)
    pod = pods[0]
    assert pod.running_s == pytest.approx(100.0 + scheduling_s + 3.0)
    probes = (pod.ready_s - pod.running_s - delay_s) / period_s
    assert probes == pytest.approx(round(probes), abs=1e-6)
    assert pod.ready_s >= pod.running_s + startup_s - 1e-6
    assert probes < 0.5 or pod.ready_s - period_s < pod.running_s + startup_s + 1e-6


def test_start_up_times_have_the_mean_and_spread_of_the_service():
    """4,000 pods, lognormal with SCV 0.2: the mean within 4 standard errors, the SCV within 15 %.

    The SCV of a sample of a lognormal with SCV 0.2 has a standard error of about 4 %.
    """
    service = service_of(startup_scv=0.2, startup_s=200.0, readiness_delay_s=0.0, readiness_period_s=1.0)
    startups_s = []
    for seed in range(20):
        state, pods = rows(SERVICE_STATE, 1)[0], rows(POD, 200)
        for _ in range(200):
            create_pod(service, state, pods, np.uint64(lane_key(seed)), 0.0)
        startups_s.append(pods.ready_s - pods.running_s - 0.5)  # half a probe
    sample = np.concatenate(startups_s)
    assert abs(sample.mean() - 200.0) < 4 * sample.std() / math.sqrt(sample.size)
    assert sample.var() / sample.mean() ** 2 == pytest.approx(0.2, rel=0.15)
    assert len(np.unique(np.round(sample))) > 200


def test_a_deleted_pod_holds_its_place_until_it_has_ended():
    """It takes no calls from the moment it is deleted, and is there, and costs, for `termination_s`."""
    deployment = Deployment(service_of(termination_s=20.0), plan=(5, 5, 3))
    for second in range(90):
        deployment.advance()
        state = deployment.state
        assert state.n_ready == state.n_active == (5 if second < 30 else 3)
        assert state.n_pods == (3 if second >= 50 else 5)


def test_a_pending_pod_is_gone_at_once():
    """Nothing runs that would have to end."""
    deployment = Deployment(service_of(image_pull_s=100.0), plan=(3, 6, 3)).advance(20)
    assert deployment.state.n_pods == 6
    deployment.advance(11)
    assert deployment.state.n_pods == deployment.state.n_ready == 3


def test_a_new_pod_is_new_whatever_was_in_its_row():
    """Rows are used again: nothing of the pod before is left in them."""
    service, states, pods = service_of(), rows(SERVICE_STATE, 2), rows(POD, 2)
    pods[1:].view(np.uint8)[:] = 0x7F
    for state, pod in zip(states, (pods[:1], pods[1:]), strict=True):
        create_pod(service, state, pod, KEY, 100.0)
    for name in POD.names or ():
        np.testing.assert_array_equal(pods[name][0], pods[name][1], err_msg=name)
    assert pods[0].next_event_s == pods[0].running_s == 105.0


def test_services_and_pods_draw_start_up_times_of_their_own():
    """From the lane's key, the service's place and the pod's serial."""
    seen = set()
    for index in range(3):
        service, state, pods = (
            service_of(startup_scv=1.0, readiness_period_s=0.01),
            rows(SERVICE_STATE, 1)[0],
            rows(POD, 3),
        )
        service.index = index
        for _ in range(3):
            create_pod(service, state, pods, KEY, 0.0)
        seen |= set(pods.ready_s.tolist())
    assert len(seen) == 9


def test_pods_that_a_world_starts_with_are_counted_and_have_nothing_ahead():
    deployment = Deployment(service_of(), plan=(4,))
    state, pods = deployment.state, deployment.in_use
    assert (state.n_pods, state.n_active, state.n_running, state.n_ready, state.n_cold) == (4, 4, 4, 4, 0)
    assert state.desired_replicas == 4
    assert state.next_event_s == math.inf and (pods.next_event_s == math.inf).all()
    assert (pods.ready_transition_s == pods.ready_s).all() and (pods.ready_s < -1e5).all()


def test_the_next_event_of_a_service_is_the_earliest_of_its_pods():
    """It may be skipped until then, and no longer."""
    deployment = growing(to=5, termination_s=3.0)
    for _ in range(150):
        deployment.advance()
        pods = deployment.in_use
        assert deployment.state.next_event_s == pods.next_event_s.min()
        ahead = [
            pod.running_s if pod.phase == PENDING
            else pod.ready_s if pod.ready != READY_TRUE
            else pod.warm_s if pod.cold
            else math.inf
            for pod in pods
        ]  # fmt: skip
        assert pods.next_event_s.tolist() == ahead


def test_the_answer_of_the_metrics_api_is_empty_where_there_is_no_sample():
    """Of a pod without one; and of containers beyond the first, which no pod here has."""
    state, pods, samples = rows(SERVICE_STATE, 1)[0], rows(POD, 3), rows(SAMPLE, 3)
    state.n_pods, samples.usage_m[:] = 2, 5
    pods.sample_m, pods.running_s = [NO_USAGE, 250, 9], [0.0, 52.0, 0.0]
    collect_samples(state, pods, samples, 60.0, 15.0)
    assert math.isnan(samples.time_s[0]) and samples.time_s[1] == 60.0
    assert samples.window_s.tolist() == [15.0, 8.0, 0.0]
    assert samples.usage_m[:2, 0].tolist() == [NO_USAGE, 250]
    assert (samples.usage_m[:2, 1:] == NO_USAGE).all()
    assert (samples.usage_m[2] == 5).all()  # there is no such pod


# --- Who is deleted first

PODS = st.lists(
    st.tuples(st.sampled_from(["pending", "starting", "ready"]), st.integers(0, 4), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(drawn=PODS, order=st.randoms(use_true_random=False))
def test_pods_are_deleted_in_the_order_of_kubernetes(drawn, order):
    """Pending before running, not ready before ready, ready for less time first, then the younger; each once."""
    service, state, pods = service_of(), rows(SERVICE_STATE, 1)[0], rows(POD, len(drawn))
    for _ in drawn:
        create_pod(service, state, pods, KEY, 0.0)
    places = list(range(len(drawn)))
    order.shuffle(places)
    for place, (kind, ready_at, _) in zip(places, drawn, strict=True):
        pods[place].phase = PENDING if kind == "pending" else RUNNING
        pods[place].ready = READY_TRUE if kind == "ready" else READY_FALSE
        pods[place].ready_transition_s = ready_at
    for place, (_, _, deleting) in zip(places, drawn, strict=True):
        pods[place].deleting = deleting
    state.n_active = sum(not deleting for _, _, deleting in drawn)

    def rank(place: int) -> tuple[int, int, float, int]:
        ready = pods[place].ready == READY_TRUE
        since = -float(pods[place].ready_transition_s) if ready else 0.0
        return int(pods[place].phase != PENDING), int(ready), since, -int(pods[place].serial)

    active = [place for place in range(len(drawn)) if not pods[place].deleting]
    for expected in sorted(active, key=rank):
        before = pods.deleting.copy()
        delete_pod(service, state, pods, 50.0)
        assert list(np.flatnonzero(pods.deleting != before)) == [expected]
        waits = service.termination_s if pods[expected].phase == RUNNING else 0.0
        assert pods[expected].gone_s == 50.0 + waits
    assert state.n_active == 0


# --- No pod is ever lost


@given(
    wanted=st.lists(st.integers(1, 12), min_size=2, max_size=14),
    seed=st.integers(0, 10_000),
    life=st.fixed_dictionaries(
        {
            "termination_s": st.sampled_from([0.0, 7.0, 40.0]),
            "startup_scv": st.sampled_from([0.0, 0.5]),
            "cold_s": st.sampled_from([0.0, 12.5]),
            "image_pull_s": st.sampled_from([0.0, 20.0]),
        }
    ),
)
def test_no_pod_is_ever_lost(wanted, seed, life):
    """Pods leave only by deletion and when their time has come; the counts are those of the pods at every tick."""
    deployment = Deployment(service_of(**life), plan=wanted, key=np.uint64(lane_key(seed)))
    state, serials = deployment.state, int(deployment.state.serial)
    alive = {serial: deployment.pods[serial].copy() for serial in range(serials)}
    for second in range(15 * len(wanted) + 60):
        deployment.advance()
        pods = deployment.in_use
        now = {int(pod.serial): pod.copy() for pod in pods}
        assert len(now) == len(pods)  # each is there once
        for serial in alive.keys() - now.keys():  # gone: deleted, and its time had come
            before = alive[serial]
            ended = before.gone_s if before.deleting else second
            assert ended <= second
        assert set(now) - set(alive) == set(range(serials, int(state.serial)))  # new ones are numbered on
        serials = int(state.serial)
        running = pods.phase == RUNNING
        ready = running & (pods.ready == READY_TRUE) & ~pods.deleting
        assert state.n_active == (~pods.deleting).sum() == at_least(second // 15, wanted)
        assert state.n_running == running.sum()
        assert state.n_ready == ready.sum()
        assert state.n_cold == (ready & pods.cold).sum()
        assert (pods.gone_s[pods.deleting] > second).all()
        alive = now


@pytest.mark.parametrize("n_rows", [8, 300])
def test_a_service_that_is_full_waits_for_room(n_rows):
    """With pods that take two minutes to end, no more than there are rows are ever there; the rest comes later."""
    deployment = Deployment(service_of(termination_s=120.0), plan=(n_rows, n_rows, 2, 2, n_rows), n_rows=n_rows)
    for second in range(300):
        deployment.advance()
        assert deployment.state.n_active <= deployment.state.n_pods <= n_rows
        if 60 <= second < 150:  # the pods of the first time still end
            assert (deployment.state.n_active, deployment.state.n_pods) == (2, n_rows)
    assert deployment.state.n_active == deployment.state.n_ready == n_rows


def test_advancing_in_leaps_ends_where_single_ticks_end():
    """A pod whose changes all lie in the past is up to date after one step."""
    service, (leap, single) = service_of(), (Deployment(service_of(), plan=(2,)) for _ in range(2))
    for deployment in (leap, single):
        deployment.state.desired_replicas = 5
        set_replicas(service, deployment.state, deployment.pods, KEY, 0.0)
    for second in range(1, 200):
        advance_pods(service, single.state, single.pods, 0.0, float(second))
    advance_pods(service, leap.state, leap.pods, 0.0, 30.0)
    assert leap.state.n_ready == 5
    advance_pods(service, leap.state, leap.pods, 0.0, 199.0)
    for name in ("phase", "ready", "cold", "serial", "running_s", "ready_s"):
        np.testing.assert_array_equal(leap.pods[name], single.pods[name])
    for deployment in (leap, single):
        assert (deployment.state.n_ready, deployment.state.n_cold) == (5, 0)


# --- What the metrics server says of them


def samples_over_time(deployment: Deployment, duration_s: int) -> dict[int, dict[int, int]]:
    """Published samples [milli-cores] by second, then by the pod's serial."""
    seen = {}
    for second in range(1, duration_s + 1):
        deployment.advance()
        seen[second] = {int(pod.serial): int(pod.sample_m) for pod in deployment.in_use}
    return seen


def using(cores: float) -> Callable[[int], float]:
    """A load that never changes."""
    return lambda second: cores


@pytest.mark.parametrize("engine", ["fluid", "requests"])
def test_samples_change_only_when_a_scrape_is_published(engine):
    """Windows end every 15 s; readers see their mean 10 s later, at 25, 40, 55 s ..., whoever books the CPU."""
    deployment = Deployment(service_of(), plan=(5,), used_cores=lambda second: 0.1 * second, engine=engine)
    seen = samples_over_time(deployment, 200)
    changes = [second for second in range(2, 201) if seen[second] != seen[second - 1]]
    assert changes == list(range(25, 201, 15))
    assert set(seen[24].values()) == {NO_USAGE}
    for second in changes:  # 5 pods; the seconds of the window are those from 25 to 11 s ago
        mean_m = round(1000 * 0.1 * np.mean(range(second - 25, second - 10)) / 5)
        assert set(seen[second].values()) == {mean_m}
    assert (deployment.state.ready_cpu_core_s > 0) == (engine == "fluid")


def test_milli_cores_are_rounded_up_from_whole_nano_cores():
    """As Quantity.MilliValue does; sums of floats that miss a whole number by a hair do not show."""
    for cores, sample_m in ((0.5, 500), (0.1, 100), (0.5001, 501), (2.5e-9, 1), (1e-12, 0), (0.0, 0)):
        deployment = Deployment(service_of(), plan=(1,), used_cores=using(cores)).advance(40)
        assert deployment.pods[0].sample_m == sample_m


class MetricsServer:
    """A second reading of metrics-server's store: what it keeps of two scrapes, by name of the container.

    Args:
        last: points by name: start, time, CPU since the start.
    """

    def __init__(self, last: dict[int, tuple[float, float, float]]) -> None:
        self.last = last
        self.answers: dict[int, tuple[float, float]] = {}  # window, mean CPU

    def store(self, points: dict[int, tuple[float, float, float]]) -> None:
        """Takes in a scrape."""
        self.answers = {}
        for name, (start_s, time_s, used_core_s) in points.items():
            if 10.0 <= time_s - start_s < SCRAPE_S:
                before = (start_s, start_s, 0.0)
            elif name in self.last and start_s < self.last[name][1]:
                before = self.last[name]
            else:
                continue
            window_s = time_s - before[1]
            self.answers[name] = window_s, (used_core_s - before[2]) / window_s
        self.last = points


def scraped(deployment: Deployment, used_core_s: dict[int, float]) -> dict[int, tuple[float, float, float]]:
    """Points of the containers that run, with what they burned while they started and what they used since."""
    points, second = {}, float(deployment.second)
    for pod in deployment.in_use[deployment.in_use.running_s <= second]:
        began_s = pod.running_s if pod.running_s >= 0 else pod.ready_s
        start_core_s = 0.8 * ((pod.ready_transition_s if pod.ready == READY_TRUE else second) - began_s)
        points[int(pod.serial)] = float(pod.running_s), second, start_core_s + used_core_s.get(int(pod.serial), 0.0)
    return points


@pytest.mark.parametrize("engine", ["fluid", "requests"])
@settings(max_examples=12)
@given(
    scheduling_s=st.floats(0.0, 40.0),
    startup_s=st.floats(0.0, 60.0),
    plan=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    cores=st.floats(0.0, 4.0),
)
def test_samples_are_those_of_a_second_reading_of_the_metrics_server(engine, scheduling_s, startup_s, plan, cores):
    """Which pods have a sample, over which window, and how much, from each container's CPU since its own start."""
    assume((scheduling_s + LIFE["image_pull_s"]) % SCRAPE_S > 0)  # upstream: no sample; here: a whole window
    service = service_of(scheduling_s=scheduling_s, startup_s=startup_s, cold_s=0.0, termination_s=25.0)
    deployment = Deployment(service, plan=plan, used_cores=using(cores), engine=engine)
    used_core_s: dict[int, float] = {}
    server = MetricsServer(scraped(deployment, used_core_s))
    for second in range(1, 15 * len(plan) + 90):
        deployment.advance()
        pods = deployment.in_use
        ready = pods.serial[(pods.ready == READY_TRUE) & ~pods.deleting]
        for serial in ready.tolist():
            used_core_s[serial] = used_core_s.get(serial, 0.0) + cores / len(ready)
        if second > SCRAPE_S and second % SCRAPE_S == DELAY_S:
            for pod, sample in zip(pods, deployment.collect(), strict=True):
                published = server.answers.get(int(pod.serial))
                assert math.isnan(sample.time_s) == (published is None), (second, pod.serial)
                if published is not None:
                    assert sample.window_s == pytest.approx(published[0])
                    assert sample.usage_m[0] == pytest.approx(1000 * published[1], abs=1.01)
        if second % SCRAPE_S == 0:
            server.store(scraped(deployment, used_core_s))


def test_a_container_has_a_sample_ten_seconds_after_its_start():
    """Scrapes at 45 and 60 s: a container that has run for 9 s has none, for 10 s one of its whole life, then of 15 s."""
    for running_s, window_s in ((52.0, None), (51.0, None), (50.0, 10.0), (46.0, 14.0), (45.0, 15.0), (38.0, 15.0)):
        deployment = growing(scheduling_s=running_s - 30.0, image_pull_s=0.0, startup_s=100.0).advance(70)
        sample = deployment.collect()[3]
        assert (None if math.isnan(sample.time_s) else sample.window_s) == window_s
        assert sample.usage_m[0] == (NO_USAGE if window_s is None else 800)


# --- Start-up CPU, and when the autoscaler sees it

# A pod is asked for at 30 s, its start time is 32 s, it runs from 35 s and is ready at 55 s; 0.8 cores burn until then.
# Scrapes at 45 s ([35, 45], all of it start-up) and 60 s ([45, 60], 10 s of it) are what syncs at 60 and 75 s read.


@pytest.mark.parametrize("cores", [0.8, 0.3, 0.0])
def test_the_cpu_of_a_start_up_shows_in_the_samples(cores):
    """It burns from when the container runs until the pod is ready; the first scrape is 10 s after its start."""
    deployment = growing(startup_s=100.0, startup_cores=cores)
    seen = samples_over_time(deployment, 135)
    assert {seen[second][3] for second in range(32, 55)} == {NO_USAGE}
    assert {seen[second][3] for second in range(55, 136)} == {round(1000 * cores)}


@pytest.mark.parametrize("engine", ["fluid", "requests"])
def test_a_window_with_a_start_up_and_service_shows_both(engine):
    """Ready at 55 s: of the window 45 to 60 s, 10 s start and 5 s serve."""
    deployment = Deployment(service_of(), plan=(3, 3, 4), used_cores=using(2.0), engine=engine)
    seen = samples_over_time(deployment, 71)
    assert seen[55][3] == 800
    assert seen[70][3] == math.ceil((10 * 800 + 5 * 500) / 15)


@pytest.mark.parametrize("engine", ["fluid", "requests"])
def test_a_pod_keeps_what_it_used_before_it_was_deleted(engine):
    """Deleted at 30 s, its next window is empty; deleted at 24 s, it worked 9 s of the window from 15 to 30 s."""
    service = service_of(termination_s=60.0)
    deployment = Deployment(service, plan=(2, 2, 1), used_cores=using(1.0), engine=engine)
    seen = samples_over_time(deployment, 60)
    assert [seen[second][1] for second in (40, 55)] == [500, 0]
    late = Deployment(service, plan=(2,), used_cores=using(1.0), engine=engine).advance(24)
    delete_pod(service, late.state, late.pods, 24.0)
    late.state.n_ready = 1
    late.advance(16)
    assert late.in_use.sample_m[:2].tolist() == [math.ceil((9 * 500 + 6 * 1000) / 15), 300]


def syncs_that_see_a_start(deployment: Deployment, hpa: Any, duration_s: int) -> list[int]:
    """Syncs at which the HPA takes the fourth pod as ready, on a sample that reaches back before its readiness."""
    seen = []
    for second in range(0, duration_s, SYNC_S):
        samples = deployment.collect()
        groups = np.zeros(deployment.state.n_pods, np.int64)
        group_pods(
            hpa, hpa.metrics[0], deployment.pods, deployment.state.n_pods, deployment.samples, 0, float(second), groups
        )
        if deployment.state.n_pods == 4 and groups[3] == READY:
            pod, sample = deployment.pods[3], samples[3]
            if pod.ready != READY_TRUE or sample.time_s - sample.window_s < pod.ready_transition_s:
                seen.append(second)
        deployment.advance(SYNC_S)
    return seen


# cpu_initialization_period, initial_readiness_delay and start-up [s], then the syncs that see start-up CPU
SIGHT = {
    "upstream's defaults": (300.0, 30.0, 20.0, []),
    "the period ends with the last such sample": (43.0, 30.0, 20.0, [75]),
    "... and a second later": (44.0, 30.0, 20.0, []),
    "the period ends with the start-up": (28.0, 30.0, 20.0, [60, 75]),
    "no period": (0.0, 30.0, 20.0, [60, 75]),
    "a pod that was never ready is not trusted": (0.0, 30.0, 100.0, [150]),
    "... unless the readiness delay is off": (0.0, 0.0, 100.0, [60, 75, 90, 105, 120, 135, 150]),
    "the readiness delay alone changes nothing": (300.0, 0.0, 100.0, []),
    "a start-up that is longer than the period": (300.0, 30.0, 400.0, [450]),
}


@pytest.mark.parametrize(("period_s", "delay_s", "startup_s", "syncs"), SIGHT.values(), ids=SIGHT.keys())
def test_the_autoscaler_sees_start_up_cpu_only_where_kubernetes_does(period_s, delay_s, startup_s, syncs):
    """Within the CPU initialization period a sample counts only if it begins after readiness: no start-up CPU is in it.

    After the period it counts if the pod is ready now; a pod that was never ready counts only if the initial readiness
    delay is 0. Source: replica_calculator.go, groupPods.
    """
    hpa = hpa_record(
        max_replicas=10, target_cpu_utilization_pct=60, cpu_initialization_period_s=period_s,
        initial_readiness_delay_s=delay_s,
    )  # fmt: skip
    assert syncs_that_see_a_start(growing(startup_s=startup_s), hpa, 600) == syncs


@pytest.mark.parametrize(
    ("controller", "seen"),
    [
        ({}, False),
        ({"initial_readiness_delay_s": 0.0}, False),
        ({"cpu_initialization_period_s": 28.0}, True),
        ({"cpu_initialization_period_s": 0.0, "initial_readiness_delay_s": 0.0}, True),
    ],
)
def test_start_up_cpu_moves_replicas_only_where_it_is_seen(controller, seen):
    """A load of 2 cores that rises to 5 at 100 s: with upstream's defaults the replicas are the same to the pod."""
    histories = []
    for cores in (0.0, 3.0):
        hpa = hpa_record(max_replicas=30, target_cpu_utilization_pct=60, **controller)
        deployment = Deployment(
            service_of(startup_cores=cores), plan=(4,), hpa=hpa, used_cores=lambda second: 2.0 if second < 100 else 5.0
        )
        histories.append(deployment.advance(300).desired)
    assert max(histories[0]) > 4
    assert (histories[0] != histories[1]) == seen
