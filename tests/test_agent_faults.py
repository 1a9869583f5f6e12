"""Faults that contestants are played through: each happens in the worlds, and who differs from the tuned HPA is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.learning.contestants import family_fit
from agents.learning.families import HPA, RULE
from agents.learning.faults import (
    BUSIEST,
    FAULTS,
    MOMENTS,
    OUTAGE_S,
    RISE,
    WARM_UP_S,
    WINDOW_S,
    Fault,
    Struck,
    compare,
    crowded,
    hide_metrics,
    moments_s,
    slow_starts,
    stick_pods,
    strike,
    struck,
)
from agents.learning.protocol import Contestant, HeldOutDays, Trial
from agents.observation import Observations
from agents.policies.contract import Policy, play
from agents.policies.hpa import HpaPolicy
from agents.policies.rule import RulePolicy
from agents.policies.static import StaticPolicy
from flows.cli import _explained
from sim_core.dataplane.services.kinds import EXTERNAL
from sim_core.profile import in_long_ticks, load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler
from tests.conftest import flat
from tests.test_protocol import sim, write_trace

PROFILE = in_long_ticks(load_profile("production"))
BY_NAME = {fault.name: fault for fault in FAULTS}
HOUR_S = 3600.0
RISING = Trace("rising", 60.0, np.geomspace(200.0, 1600.0, 240))  # doubles every 80 minutes


def lanes_of(trace: Trace, n: int = 3) -> list[Lane]:
    return [Lane(PROFILE, trace, seed, scaler=Scaler.external()) for seed in range(n)]


class Watched:
    """What was seen of worlds at the beginning of every sync, a fault in between."""

    def __init__(self, policy: Policy, lanes: list[Lane], fault: Fault):
        self.seen: dict[str, list[np.ndarray]] = {name: [] for name in ("published", "ready", "desired")}
        self._fault, self._begun = fault, False
        play(lanes, policy, WARM_UP_S + WINDOW_S, at_sync=self._at_sync)

    def _at_sync(self, worlds: Worlds) -> None:
        if not self._begun and worlds.time_s[0] >= WARM_UP_S:
            self._fault.strike(worlds)
            self._begun = True
        services = worlds.tables.service_states
        self.seen["published"].append(worlds.state["n_published"].copy())
        self.seen["ready"].append(services["n_ready"].copy())
        self.seen["desired"].append(services["desired_replicas"].copy())

    def of(self, name: str, from_s: float, to_s: float) -> np.ndarray:
        """Rows of what was seen, by time from the beginning of the fault on."""
        step_s = PROFILE.controller.sync_period_seconds
        first, last = ((WARM_UP_S + time_s) / step_s for time_s in (from_s, to_s))
        return np.stack(self.seen[name])[round(first) : round(last)]


# --- Each fault


@pytest.mark.parametrize("step_s", [1.0, 60.0, 300.0, 3600.0])
def test_a_crowd_is_three_times_the_traffic_for_ten_minutes(step_s):
    trace = Trace("flat", step_s, np.full(int(4 * HOUR_S / step_s), 100.0))
    crowd = crowded(trace, HOUR_S)
    assert crowd.step_s == min(step_s, 10.0) and crowd.duration_s == trace.duration_s
    during = crowd.slice(HOUR_S, HOUR_S + 600.0).rates_per_s
    np.testing.assert_allclose(during, 300.0)
    assert crowd.rates_per_s.sum() * crowd.step_s == pytest.approx(100.0 * (4 * HOUR_S + 1200.0))


def test_a_crowd_leaves_a_trace_of_long_steps_as_it_runs():
    """Between the middles of its steps a lane's rate is a line; cut into seconds it is the same line."""
    trace = Trace("hourly", HOUR_S, np.array([100.0, 400.0, 200.0, 300.0]))
    crowd = crowded(trace, 3 * HOUR_S)
    assert crowd.rates_per_s[360] == pytest.approx(100.0 + 300.0 * (1800.0 + 5.0) / HOUR_S)
    assert crowd.rates_per_s[:180] == pytest.approx(100.0)


def test_a_crowd_arrives():
    """Expected requests are 10 min more of twice the rate; 4 standard errors of Poisson draws over three lanes."""
    at_s, rate = 2 * HOUR_S, 100.0
    trace = flat(rate, 4 * HOUR_S)
    plain, crowd = (
        struck(StaticPolicy(replicas=20), [Lane(PROFILE, played, seed, at_s - WARM_UP_S) for seed in range(3)], FAULTS[0])[0]
        for played in (trace, crowded(trace, at_s))
    )  # fmt: skip
    expected = 2.0 * 600.0 * rate
    assert abs((crowd - plain).mean() - expected) <= 4.0 * math.sqrt(expected + 2.0 * WINDOW_S * rate) / math.sqrt(3.0)


@pytest.mark.parametrize("policy", [HpaPolicy(), RulePolicy()])
def test_metrics_are_gone_for_five_minutes_and_come_back(policy):
    """Under a load that doubles every 80 minutes whoever follows metrics holds, and goes on afterwards."""
    watched = Watched(policy, lanes_of(RISING), BY_NAME["no-metrics"])
    hidden = watched.of("published", 0.0, OUTAGE_S)
    assert (hidden == hidden[0]).all()
    later = watched.of("published", OUTAGE_S + 30.0, WINDOW_S)
    assert (np.diff(later, axis=0) == 1).all() and (later[0] > hidden[0]).all()
    held = watched.of("desired", 120.0, OUTAGE_S)
    assert (held == held[0]).all()
    assert (watched.of("desired", WINDOW_S - 15.0, WINDOW_S) > held[0]).all()


@pytest.mark.parametrize("policy", [HpaPolicy(), RulePolicy(hold_s=0.0)])
def test_a_fifth_of_the_pods_is_never_ready_again(policy):
    """They count for the Deployment, which asks for more; whoever scales has as many ready ones as usual 10 min later."""
    lanes = lanes_of(flat(800.0, 4 * HOUR_S))
    calm, watched = (Watched(policy, lanes, BY_NAME[name]) for name in ("none", "stuck-pods"))
    (before,), (after,) = watched.of("ready", -15.0, 0.0), watched.of("ready", 0.0, 15.0)
    np.testing.assert_array_equal(before - after, np.ceil(0.2 * before))
    np.testing.assert_array_equal(watched.of("desired", 0.0, 15.0), watched.of("desired", -15.0, 0.0))
    ready, usual = (played.of("ready", 600.0, WINDOW_S).mean(axis=0) for played in (watched, calm))
    np.testing.assert_allclose(ready, usual, rtol=0.05)
    assert (watched.of("desired", 0.0, WINDOW_S).max(axis=0) >= 1.15 * usual).all()


def test_stuck_pods_burn_what_a_start_burns():
    """A minute later the ready ones share the load, and the API server has a CPU sample of all."""
    worlds = Worlds(lanes_of(flat(400.0, HOUR_S)))
    worlds.advance(60)
    stick_pods(worlds)
    worlds.advance(12)
    for lane in range(len(worlds)):
        (own,) = worlds.of(lane, "service_states")
        pods = worlds.of(lane, "pods")[: own["n_pods"]]
        stuck = pods["ready"] != 1
        assert own["n_ready"] == (~stuck).sum() and stuck.sum() == math.ceil(0.2 * len(pods))
        np.testing.assert_array_equal(pods["sample_m"][stuck], 800)
        assert pods["sample_m"][~stuck].mean() == pytest.approx(1000.0 * 400.0 * 0.025 / (~stuck).sum(), rel=0.1)


def test_pods_start_in_twice_the_time():
    worlds = Worlds([Lane(profile, flat(400.0, HOUR_S), 1) for profile in (PROFILE, slow_starts(PROFILE))])
    worlds.params["sync_phase_ticks"] = 0
    worlds.tables.services["scaler"]["kind"] = EXTERNAL
    worlds.request_replicas(np.full((2, 1), 100))
    worlds.advance(6)
    took_s = []
    for lane in range(2):
        pods = worlds.of(lane, "pods")[:100]
        new = pods[pods["start_s"] >= 0.0]
        took_s.append(float((new["ready_s"] - new["running_s"]).mean()))
        assert len(new) > 70
    life = PROFILE.services[0].lifecycle
    probe_s = 0.5 * life.readiness.period_seconds  # until the next one
    assert took_s == pytest.approx([factor * life.startup_seconds + probe_s for factor in (1.0, 2.0)], rel=0.1)


# --- What the rule answers without metrics


class Blind:
    """Worlds under the rule, whose metrics are hidden for half an hour after 40 decisions; the HPA is asked beside it."""

    def __init__(self, lanes: list[Lane]):
        self.worlds, self.rule, self.hpa = Worlds(lanes), RulePolicy(hold_s=0.0), HpaPolicy()
        for policy in (self.rule, self.hpa):
            policy.reset(lanes, HOUR_S)
        self.decide(40)
        hide_metrics(self.worlds, 1800.0)

    def decide(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What there was, what the rule and what the HPA said, shape (n, n_lanes) each."""
        said = []
        for _ in range(n):
            observations = Observations(self.worlds)
            desired = self.rule.predict(observations)
            said.append([observations.replicas[:, 0].copy(), desired[:, 0], self.hpa.predict(observations)[:, 0]])
            self.worlds.request_replicas(desired)
            self.worlds.advance(3)
        current, rule, hpa = np.array(said).transpose(1, 0, 2)
        return current, rule, hpa


def test_without_metrics_the_rule_and_the_hpa_answer_alike():
    """For half an hour, on a load that doubles in less: once the newest scrape is stale both keep what there is."""
    steep = Trace("steep", 60.0, np.geomspace(200.0, 2000.0, 60))
    current, rule, hpa = Blind([*lanes_of(steep), *lanes_of(flat(300.0, HOUR_S))]).decide(120)
    np.testing.assert_array_equal(hpa, current)
    np.testing.assert_array_equal(rule[5:], hpa[5:])
    assert (rule[5:] == rule[5]).all()


def test_pods_that_get_stuck_are_replaced_without_metrics_too():
    """As many more as got stuck, once, and not until they should have been ready; so many are gone when metrics are back."""
    blind = Blind(lanes_of(flat(800.0, HOUR_S)))
    _, rule, _ = blind.decide(10)
    usual = rule[-1]
    ready = blind.worlds.tables.service_states["n_ready"].copy()
    stick_pods(blind.worlds)
    n_stuck = ready - blind.worlds.tables.service_states["n_ready"]
    _, rule, _ = blind.decide(100)
    np.testing.assert_array_equal(rule, np.tile(usual + n_stuck, (100, 1)))
    np.testing.assert_array_equal(blind.worlds.tables.service_states["n_ready"], ready)


def test_what_is_replaced_without_metrics_is_no_larger_a_step_than_usual():
    """Of 20 pods all but one are stuck: the next decision at most doubles them, and what it leaves out follows."""
    blind = Blind(lanes_of(flat(800.0, HOUR_S), 1))
    _, rule, _ = blind.decide(10)
    usual = int(rule[-1, 0])
    (own,) = blind.worlds.of(0, "service_states")
    pods = blind.worlds.of(0, "pods")[: own["n_pods"]]
    before = pods.copy()
    for _ in range(20):
        stick_pods(blind.worlds)
    n_stuck = int((pods["ready"] != before["ready"]).sum())
    _, rule, _ = blind.decide(60)
    steps = np.diff(np.r_[usual, rule[:, 0]])
    assert steps.max() <= max(usual, 4) and rule[-1, 0] == min(usual + n_stuck, PROFILE.services[0].replicas.max)


# --- The comparison


@pytest.fixture(scope="module")
def trial() -> Trial:
    """Five days of two hours, each with one rise, two of the same length before them."""
    shape = np.r_[np.full(50, 300.0), np.full(40, 650.0), np.full(30, 750.0)]
    trace = Trace("rises", 60.0, np.tile(shape, 7))
    starts_s = tuple(day * 2 * HOUR_S for day in range(2, 7))
    return Trial(PROFILE, trace, HeldOutDays(2 * HOUR_S, starts_s, (2 * 2 * HOUR_S,) * 5), seeds=2)


@pytest.fixture(scope="module")
def outcomes(trial: Trial) -> dict[str, Struck]:
    (part,) = trial.parts()
    fits = {
        "hpa-tuned": family_fit(HPA, part, hpa_settings(60), 1.0),
        "lazy": family_fit(HPA, part, hpa_settings(95), 1.0),
        "rule": family_fit(RULE, part, RulePolicy().settings, 1.0),
    }
    return {name: strike(Contestant(name, [fit]), trial) for name, fit in fits.items()}


def hpa_settings(target: int) -> dict[str, Any]:
    return {"target_cpu_utilization_pct": target}


def test_faults_set_in_where_it_is_busiest_and_where_the_load_rises(trial):
    """A day is level, then higher, and highest for a while: there it is busiest."""
    moments = moments_s(trial)
    for start_s, rise_s, busiest_s in zip(trial.days.starts_s, moments[RISE], moments[BUSIEST], strict=True):
        assert rise_s == pytest.approx(start_s + 50 * 60.0, abs=300.0)
        assert busiest_s == pytest.approx(start_s + 90 * 60.0, abs=300.0)


def test_contestants_meet_the_same_worlds(outcomes):
    """Requests are the same lane by lane but for retries, whoever scales; a crowd brings more of them."""
    hpa, rule = outcomes["hpa-tuned"], outcomes["rule"]
    assert hpa.requests.shape == (2, len(FAULTS), 1, 5, 2)
    np.testing.assert_allclose(rule.requests, hpa.requests, rtol=2e-3)
    names = [fault.name for fault in FAULTS]
    crowd, none = (hpa.requests[0, names.index(name)].sum() for name in ("flash-crowd", "none"))
    assert crowd / none == pytest.approx(1.0 + 2.0 * 600.0 / WINDOW_S, rel=0.05)
    for name in ("no-metrics", "stuck-pods", "slow-starts"):
        np.testing.assert_allclose(hpa.requests[:, names.index(name)], hpa.requests[:, names.index("none")], rtol=1e-9)


def test_a_policy_differs_by_nothing_from_itself_and_one_with_fewer_pods_is_below(outcomes):
    hpa = outcomes["hpa-tuned"]
    twin = Struck("twin", hpa.requests, hpa.bad, hpa.pod_s)
    table = compare([hpa, twin, outcomes["lazy"]]).set_index(["policy", "moment", "fault"])
    same = table.loc["twin"]
    assert (same[["difference", "difference_ci95_low", "difference_ci95_high"]] == 0.0).all(axis=None)
    assert not same["below"].any()
    lazy = table.loc["lazy"]
    assert lazy["below"].all() and (lazy["pods"] < same["pods"]).all()
    np.testing.assert_allclose(lazy["difference"], lazy["slo_attainment"] - same["slo_attainment"], atol=1e-12)


def test_seeds_are_no_days():
    """Differences that scatter from day to day, twenty seeds each: as wide an interval as that of five numbers."""
    by_day = np.array([0.04, -0.01, 0.02, -0.03, 0.01])
    shape = (2, len(FAULTS), 1, 5, 20)
    bad = np.broadcast_to(100.0 * (0.1 - by_day)[:, np.newaxis], shape)
    requests, pod_s = np.full(shape, 100.0), np.ones(shape)
    row = compare([Struck("hpa-tuned", requests, 0.1 * requests, pod_s), Struck("other", requests, bad, pod_s)]).iloc[
        -1
    ]
    half = 2.776 * by_day.std(ddof=1) / math.sqrt(5)
    assert row["difference"] == pytest.approx(by_day.mean())
    assert row["difference_ci95_high"] - row["difference"] == pytest.approx(half, rel=1e-3)


def test_without_a_tuned_hpa_there_is_no_difference(outcomes):
    table = compare([outcomes["rule"]])
    assert table["difference"].isna().all() and table["below"].isna().all()
    assert table["slo_attainment"].between(0.0, 1.0).all()


def test_to_be_watched_changes_nothing():
    lanes = lanes_of(RISING)
    for policy in (HpaPolicy(), RulePolicy()):
        watched = play(lanes, policy, HOUR_S, at_sync=lambda worlds: None).indicators
        np.testing.assert_array_equal(watched, play(lanes, policy, HOUR_S).indicators)


# --- The command


@pytest.fixture
def file(tmp_path: Path, trial: Trial) -> Path:
    return write_trace(tmp_path / "rises.csv", trial.trace)


SMALL = ("--block", "2h", "--seeds", "1", "--budget-days", "0.2", "--peak-replicas", "10", "--no-track")


@pytest.mark.slow
def test_the_command_plays_faults_beside_the_table_and_resumes(file, tmp_path):
    state = tmp_path / "state"
    asked = ("benchmark-agents", file, "--faults", "--policies", "hpa-tuned,rule,general", *SMALL, "--state", state)
    done = sim(*asked, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (trace,) = document["traces"]
    assert list(trace["faults"]["about"]) == [fault.name for fault in FAULTS]
    for moment in (BUSIEST, RISE):
        told = trace["faults"]["moments"][moment]
        assert list(told["by_fault"]) == [fault.name for fault in FAULTS] and len(told["begin_s"]) == 5
        for policies in told["by_fault"].values():
            assert list(policies) == ["hpa-tuned", "rule", "general"]
            assert policies["hpa-tuned"]["difference"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    kept = {path: path.stat().st_mtime_ns for path in (state / "contests").iterdir()}
    assert len(kept) == 6
    again = sim(*asked)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in (state / "contests").iterdir()} == kept
    for moment in MOMENTS.values():
        assert f"rises, faults {moment}: slo_attainment in the next 25m" in again.stdout
        assert f"Faults {moment}" in Path(document["report"]).read_text()
    plain = json.loads(sim(*(arg for arg in asked if arg != "--faults"), "--json").stdout)
    assert plain["traces"][0]["faults"] is None


def test_what_is_wrong_with_a_request_for_faults_is_told_with_the_rest(file, tmp_path, capsys):
    done = sim("benchmark-agents", file, "--faults", "--policies", "rulle", "--block", "15m", "--state", tmp_path / "s")
    assert done.exception is not None and _explained(done.exception) == 2
    said = capsys.readouterr().err
    for words in ("--faults: takes blocks of at least 55m (got 15m)", "unknown policy 'rulle'", "did you mean 'rule'?"):
        assert words in said
    unknown = sim("benchmark-agents", file, "--fault")
    assert unknown.exit_code == 2 and "--faults" in unknown.output
