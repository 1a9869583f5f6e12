"""The judge of both engines held to made-up engines whose distance is known, and what the scenarios ask."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from experiments.agreement import judge as judging
from experiments.agreement.judge import (
    FIGURES,
    JUDGED,
    LEAST_SEEDS,
    MOST_SEEDS,
    NOISE_SHARE,
    Difference,
    Outcome,
    difference,
    judge,
    verdict_of,
)
from experiments.agreement.scenarios import TRACES, Scenario, fleet, scenarios
from experiments.agreement.table import cells, columns, rows
from experiments.agreement.validated import (
    Facts,
    Played,
    Record,
    beyond,
    facts_of,
    facts_of_report,
    nearest_disagreement,
    peak_load,
    read_record,
    write_record,
)
from flows.commands import run as running
from flows.commands.agreement import AgreementRequest, measure_agreement
from flows.terminal.output import plain
from flows.terminal.tables import show_agreement
from sim_core.errors import InputError
from sim_core.indicators import INDICATORS
from sim_core.profile import load_profile
from sim_core.simulation import simulate

SMALL = Scenario("small", 4, 300.0, (0.5,), changes=fleet(4))
FIGURE = {figure.name: figure for figure in FIGURES}
EXACT = {"latency_mean_s": 0.1, "latency_p50_s": 0.08, "latency_p95_s": 0.3, "latency_p99_s": 0.5,
         "slo_attainment": 0.95, "error_ratio": 0.01, "replica_hours": 4.0}  # fmt: skip


def made_up(shared: float = 0.0, own: float = 0.0, stream: int = 0, **offsets: float):
    """An engine whose figures are EXACT plus offsets, with relative noise that both share by seed, and noise of its own."""

    def play(lanes, duration_s):
        table = []
        for lane in lanes:
            common = np.random.default_rng([1, lane.seed]).normal() * shared
            noise = np.random.default_rng([2, stream, lane.seed]).normal() * own
            row = {name: value * (1.0 + common + noise) for name, value in EXACT.items()}
            row |= {name: EXACT[name] for name in ("slo_attainment", "error_ratio", "replica_hours")}
            table.append(dict.fromkeys(INDICATORS, 0.0) | {name: row[name] + offsets.get(name, 0.0) for name in EXACT})
        return pd.DataFrame(table)

    return play


# --- the judge


def test_engines_that_say_the_same_agree_after_the_fewest_seeds():
    outcome = judge(SMALL, fast=made_up(shared=0.3), exact=made_up(shared=0.3))
    assert outcome.agrees and outcome.worst == 0.0 and outcome.noisy == []
    assert outcome.seeds == LEAST_SEEDS
    assert all(value == Difference(0.0, 0.0, 0.0) for value in outcome.differences.values())


@pytest.mark.parametrize(
    ("offsets", "worst"),
    [
        ({"latency_mean_s": 0.0049}, 0.98),  # 4.9 % of a bound of 5 %
        ({"latency_mean_s": -0.0052}, 1.04),
        ({"latency_p95_s": 0.033}, 1.1),
        ({"slo_attainment": -0.0055}, 1.1),  # points, not per cent of what is left
        ({"error_ratio": 0.009}, 0.9),  # 90 % more errors, but less than a point
        ({"error_ratio": 0.021}, 2.1),
        ({"latency_p50_s": 0.08, "latency_p99_s": 0.5}, 0.0),  # shown, not judged
    ],
)
def test_each_figure_is_measured_in_its_own_bound(offsets, worst):
    outcome = judge(SMALL, fast=made_up(**offsets), exact=made_up())
    assert outcome.worst == pytest.approx(worst)
    assert outcome.agrees == (worst <= 1.0)


def test_noise_that_both_engines_share_cancels_and_other_noise_asks_for_more_seeds():
    """A spread of 30 % by seed says nothing where both have it; one of 4 % of its own needs dozens of seeds."""
    shared = judge(SMALL, fast=made_up(shared=0.3, latency_mean_s=0.002), exact=made_up(shared=0.3))
    assert shared.seeds == LEAST_SEEDS and shared.noisy == []
    own = judge(SMALL, fast=made_up(own=0.04, stream=1), exact=made_up(own=0.04, stream=2))
    assert LEAST_SEEDS < own.seeds <= MOST_SEEDS and own.noisy == []
    assert own.differences["latency_mean_s"].noise <= NOISE_SHARE * FIGURE["latency_mean_s"].bound


def test_seeds_are_added_not_played_again():
    """Both engines meet the same lanes, each seed once."""
    met: dict[str, list[int]] = {"fast": [], "exact": []}

    def noted(name: str, engine: Callable) -> Callable:
        def play(lanes, duration_s):
            met[name] += [lane.seed for lane in lanes]
            assert duration_s == SMALL.duration_s
            return engine(lanes, duration_s)

        return play

    outcome = judge(SMALL, fast=noted("fast", made_up(own=0.05, stream=1)), exact=noted("exact", made_up()))
    assert met["fast"] == met["exact"] == [judging.FIRST_SEED + k for k in range(outcome.seeds)]
    assert outcome.seeds > LEAST_SEEDS


def test_where_the_requests_to_be_spent_do_not_suffice_it_is_said():
    a_seed = SMALL.traffic().mean_per_s * SMALL.duration_s
    outcome = judge(SMALL, fast=made_up(own=0.5, stream=1), exact=made_up(own=0.5, stream=2), calls=6.5 * a_seed)
    assert outcome.seeds == 6
    assert "latency_mean_s" in outcome.noisy
    assert cells(rows([outcome])[0])[0].endswith("~")


def test_the_interval_of_a_difference_holds_it_as_often_as_it_says():
    """95 % of 400 intervals hold the true difference, within 4 standard errors of that share."""
    held = 0
    for trial in range(400):
        generator = np.random.default_rng(trial)
        exact = generator.normal(1.0, 0.2, 8)
        fast = exact * 1.03 + generator.normal(0.0, 0.02, 8)
        value = difference(FIGURE["latency_mean_s"], fast, exact)
        held += value.low <= 3.0 <= value.high
    assert abs(held / 400 - 0.95) <= 4.0 * math.sqrt(0.95 * 0.05 / 400)


def test_what_only_one_engine_has_is_no_agreement():
    """No latency because nothing was answered is one thing, and the same in both engines is another."""
    mean = FIGURE["latency_mean_s"]
    nothing, something = np.full(4, math.nan), np.full(4, 0.1)
    assert difference(mean, nothing, nothing) == Difference(0.0, 0.0, 0.0)
    for one, other in ((nothing, something), (something, nothing)):
        assert math.isnan(difference(mean, one, other).mean)
    assert math.isnan(difference(mean, something, np.zeros(4)).mean)  # relative to nothing
    outcome = judge(SMALL, fast=made_up(latency_mean_s=math.nan), exact=made_up())
    assert not outcome.agrees and math.isinf(outcome.worst)
    json.dumps(plain(rows([outcome])), allow_nan=False)


# --- the verdict


def outcome_of(worst: float, name: str = "s", fitting: bool = False) -> Outcome:
    differences = {figure.name: Difference(0.0, 0.0, 0.0) for figure in FIGURES}
    off = worst * JUDGED[0].bound
    return Outcome(name, fitting, 4, differences | {JUDGED[0].name: Difference(off, off, off)}, EXACT)


def test_nineteen_of_twenty_within_and_none_beyond_twice_is_agreement():
    good = [outcome_of(0.9, f"s{k}") for k in range(19)]
    assert verdict_of([*good, outcome_of(1.9, "off")]).agree
    assert not verdict_of([*good, outcome_of(2.1, "far")]).agree
    assert verdict_of([*good, outcome_of(2.1, "far")]).beyond == ("far",)
    assert not verdict_of([*good, outcome_of(1.5, "a"), outcome_of(1.5, "b")]).agree
    assert not verdict_of([]).agree


def test_what_may_be_fitted_to_does_not_count():
    verdict = verdict_of([outcome_of(0.5), outcome_of(5.0, "far", fitting=True)])
    assert (verdict.judged, verdict.within, verdict.beyond) == (1, 1, ())
    assert verdict.words().startswith("The engines agree: 1 of 1 scenarios keep every bound (100 %, to be 95 %)")


# --- scenarios


def test_the_scenarios_ask_all_that_was_promised():
    asked = scenarios()
    judged = [scenario for scenario in asked if not scenario.fitting]
    assert len(judged) >= 44 and len({scenario.name for scenario in asked}) == len(asked)
    static = [s for s in judged if len(s.loads) == 1 and s.graph is None]
    assert {min(s.loads[0] for s in static), max(s.loads[0] for s in static)} == {0.3, 1.5}
    assert {1, 200} <= {s.pods for s in static}
    scvs = {s.changes["services.api.container.cpu_scv"] for s in static}
    assert {0.25, 1.0, 4.0} <= scvs
    assert {s.changes["ingress.load_balancing"] for s in static} == {
        "random", "round_robin", "least_outstanding", "power_of_two",
    }  # fmt: skip
    assert {s.changes["services.api.container.cpu_sharing"] for s in static} == {
        "fifo", "processor_sharing", "cfs_quota",
    }  # fmt: skip
    assert {s.trace for s in judged if s.trace} == set(TRACES) and len(TRACES) == 5
    assert {s.graph for s in judged if s.graph} == {"parallel", "diamond", "shop"}
    assert any(s.hpa for s in judged) and any(s.ramp for s in judged)
    retries = {s.changes.get("services.api.client.max_retries") for s in judged}
    assert {0, 3} <= retries
    assert any(s.changes.get("services.api.container.queue_limit") == 0 for s in judged)


def test_nothing_is_fitted_to_what_is_judged():
    """No scenario of one set has a twin in the other, whatever it is called."""
    seen = {False: set(), True: set()}
    for scenario in scenarios():
        seen[scenario.fitting].add((scenario.loads, tuple(sorted(map(str, scenario.changes.items()))), scenario.graph))
    assert len(seen[True]) >= 12 and seen[True].isdisjoint(seen[False])


@pytest.mark.parametrize("scenario", [s for s in scenarios() if s.trace is None], ids=lambda s: s.name)
def test_every_scenario_has_a_world_that_can_be_played_for_its_whole_duration(scenario):
    (lane,) = scenario.lanes([1])
    assert lane.trace.duration_s == pytest.approx(scenario.duration_s)
    assert simulate([lane], 2.0).indicators["slo_attainment"].notna().all()


def test_a_load_is_one_of_what_the_pods_serve():
    """Production's pod serves 40 requests/s; parts of equal length hold a load each, a ramp goes from one to the next."""
    assert SMALL.traffic().rates_per_s == pytest.approx(np.full(30, 0.5 * 4 * 40.0))
    steps = Scenario("steps", 10, 100.0, (0.5, 1.5), changes=fleet(10)).traffic()
    assert steps.rates_per_s == pytest.approx(np.repeat([200.0, 600.0], 5))
    ramp = Scenario("ramp", 10, 110.0, (0.0, 1.0, 0.0), True, fleet(10)).traffic()
    assert ramp.rates_per_s == pytest.approx(400.0 * (1.0 - np.abs(np.arange(11) - 5) / 5))


def test_a_trace_is_played_where_it_is_busiest_and_skipped_where_it_is_not(tmp_path):
    rates = np.ones(240)
    rates[100:160] = 3.0
    rates[130] = 4.0
    table = "".join(f"{60 * k},{rate}\n" for k, rate in enumerate(rates))
    (tmp_path / "wave.csv.gz").write_text("t_seconds,requests_per_second\n" + table)
    scenario = Scenario("wave", 10, 3600.0, trace="wave", changes=fleet(10))
    assert scenario.is_playable(tmp_path) and not scenario.is_playable(None)
    assert not Scenario("none", 10, 3600.0, trace="none").is_playable(tmp_path)
    played = scenario.traffic(tmp_path)
    assert played.duration_s == 3600.0
    assert played.rates_per_s == pytest.approx(0.7 * 400.0 * rates[100:160] / 4.0)


# --- the command


@pytest.fixture
def engines(monkeypatch):
    """Two made-up engines in place of the simulator's: the judge and the command are real."""
    made = {"fluid": made_up(latency_mean_s=0.002), "requests": made_up()}
    monkeypatch.setattr(judging, "engine_of", lambda name, threads: made[name])
    few = [SMALL, Scenario("trace", 4, 300.0, trace="none", changes=fleet(4))]
    monkeypatch.setattr("experiments.agreement.scenarios.scenarios", lambda: few)
    return made


def request(**changes) -> AgreementRequest:
    return AgreementRequest(**{"only": None, "seeds": 8, "traces": None, "threads": 1, "record": None} | changes)


def test_the_command_says_what_it_played_what_it_skipped_and_the_verdict(engines, capsys, tmp_path):
    document = measure_agreement(request(record=tmp_path / "record.json"))
    said = capsys.readouterr().err
    assert "Skipped, for want of --traces FOLDER" in said and "1 of 1: " in said
    assert [row["scenario"] for row in document["scenarios"]] == ["small"]
    assert document["skipped"] == ["trace"]
    assert document["verdict"]["agree"] is True
    assert document["scenarios"][0]["differences"]["latency_mean_s"]["mean"] == pytest.approx(2.0)
    assert document["bounds"]["latency_p95_s"] == {"bound": 10.0, "unit": "%"}
    show_agreement(document)
    shown = capsys.readouterr().out
    assert "The engines agree: 1 of 1" in shown and "+2.00" in shown and "Skipped: trace" in shown
    assert [played.name for played in read_record(tmp_path / "record.json").played] == ["small"]


def test_engines_that_differ_are_no_agreement(engines):
    engines["fluid"] = made_up(latency_p95_s=0.07)
    document = measure_agreement(request(only="sma*"))
    assert document["verdict"]["agree"] is False and document["verdict"]["beyond"] == ("small",)
    assert cells(document["scenarios"][0])[columns().index("p95 %")].endswith("!")


def test_what_cannot_be_played_is_refused(engines, tmp_path):
    with pytest.raises(InputError, match=r"--only: no scenario is called 'smal_l'; did you mean 'small'\?"):
        measure_agreement(request(only="smal_l"))
    with pytest.raises(InputError, match="--traces: is no folder"):
        measure_agreement(request(traces=tmp_path / "none"))


# --- what was validated


def played(name: str, agrees: bool = True, **changes) -> Played:
    facts = {"balancings": ("random",), "sharings": ("fifo",), "scv": 1.0, "room": 80.0, "services": 1,
             "pods": (20.0, 20.0), "load": 0.9}  # fmt: skip
    errors = {"latency_mean_s": -14.2, "latency_p95_s": 22.0, "slo_attainment": -1.3, "error_ratio": 0.2}
    return Played(name, Facts(**facts | changes), errors, agrees)


RECORD = Record("1", (
    played("calm", load=0.3, pods=(1.0, 1.0), scv=0.25), played("busy", load=1.2, pods=(200.0, 200.0), scv=4.0),
    played("lo", balancings=("least_outstanding",), load=0.8, room=4.0),
    played("bad", False, balancings=("least_outstanding",), load=0.95),
))  # fmt: skip


def test_a_run_within_what_was_validated_is_told_nothing():
    inside = Facts(("random",), ("fifo",), 2.0, 80.0, 1, (), (2.0, 60.0), 1.21)
    assert beyond(inside, RECORD) == [] and nearest_disagreement(inside, RECORD) is None


def test_each_respect_in_which_a_run_lies_outside_is_told_with_what_was_validated():
    outside = Facts(
        ("least_outstanding", "round_robin"), ("cfs_quota",), 9.0, 2.0, 1, ("slow start",), (0.5, 400.0), 1.3
    )
    assert beyond(outside, RECORD) == [
        "The balancer round_robin was not validated (validated: least_outstanding, random).",
        "The CPU sharing cfs_quota was not validated (validated: fifo).",
        "The option slow start was not validated (validated: none).",
        "A load of 1.30 with least_outstanding was not validated (validated: up to 0.8).",
        "SCV of CPU time of 9 were not validated (validated: 0.25 to 4).",
        "Rooms of 2 calls a pod were not validated (validated: 4 or more).",
        "Pods of a service of 0.5 to 400 were not validated (validated: 1 to 200).",
    ]


def test_a_scenario_like_the_run_in_which_the_engines_differ_is_named_with_its_errors():
    like = Facts(("least_outstanding",), ("fifo",), 1.0, 80.0, 1, (), (20.0, 20.0), 0.9)
    assert nearest_disagreement(like, RECORD) == (
        "In a scenario like this one (bad) the fluid engine is off by -14 % in the mean, +22 % in p95, "
        "-1.3 points of SLO attainment and +0.2 of errors."
    )
    calm = Facts(("least_outstanding",), ("fifo",), 1.0, 80.0, 1, (), (20.0, 20.0), 0.7)
    assert nearest_disagreement(calm, RECORD) is None


def test_a_record_reads_as_it_was_written_and_nothing_else_is_one(tmp_path):
    outcome = judge(SMALL, fast=made_up(latency_mean_s=math.nan), exact=made_up())
    path = tmp_path / "record.json"
    write_record(path, [SMALL], [outcome])
    (read,) = read_record(path).played
    assert (read.name, read.agrees, read.facts.load, read.facts.pods) == ("small", False, 0.5, (4.0, 4.0))
    assert math.isnan(read.errors["latency_mean_s"]) and read.errors["latency_p95_s"] == 0.0
    assert read_record(tmp_path / "none.json") is None
    path.write_text('{"scenarios": [{"name": 1}]}')
    with pytest.raises(InputError, match="is no record of"):
        read_record(path)


def test_the_peak_load_of_a_run_is_what_its_busiest_step_offered():
    """4 pods serve 160 requests/s; the middle third of the traffic asks for 1.5 times that, retries come on top."""
    scenario = Scenario("peak", 4, 900.0, (0.5, 1.5, 0.5), changes=fleet(4))
    timeline = simulate(scenario.lanes([0, 1]), 900.0, 60.0).service_timeline
    pods, load = peak_load(scenario.profile, timeline)
    assert pods == (4.0, 4.0)
    assert 1.5 <= load <= 1.5 * 1.25


def test_a_run_is_told_where_it_lies_outside_and_the_request_engine_is_not(monkeypatch, tmp_path):
    """Without a record nothing is watched, and nothing is claimed."""
    profile = load_profile("production").with_overrides(dict(SMALL.changes))
    record = Record("1", (played("lo", balancings=("least_outstanding",), load=0.3),))
    monkeypatch.setattr("experiments.agreement.validated.shipped_record", lambda: None)
    assert running.watch_step_s("fluid", profile, 300.0, 1) is None
    monkeypatch.setattr("experiments.agreement.validated.shipped_record", lambda: record)
    step_s = running.watch_step_s("fluid", profile, 300.0, 1)
    assert step_s == 15.0 and running.watch_step_s("requests", profile, 300.0, 1) is None
    simulation = simulate(SMALL.lanes([0]), 300.0, step_s)
    sentences = running.beyond_validated("fluid", profile, simulation)
    assert any(sentence.startswith("A load of 0.") and "up to 0.3" in sentence for sentence in sentences)
    assert running.beyond_validated("requests", profile, simulation) == []
    assert running.watch_step_s("fluid", profile, 86_400.0, 4096) == 3600.0


def test_a_report_counts_every_world_and_the_busiest_step_of_any_policy():
    worlds = [
        load_profile("production"),
        load_profile("production").with_overrides({"services.api.container.cpu_scv": 7.0}),
    ]
    lines = {"a": {"replicas_ready": [0.0, 10.0], "load_per_s": [5.0, 200.0]},
             "b": {"replicas_ready": [4.0, 5.0], "load_per_s": [200.0, 100.0]}}  # fmt: skip
    facts = facts_of_report(worlds, lines)
    assert (facts.scv, facts.pods, facts.load) == (7.0, (4.0, 10.0), pytest.approx(200.0 / 160.0))
    assert facts_of_report(worlds[:1], {}) == facts_of(worlds[0])
    assert facts.room == 80.0  # 16 workers and 64 places
