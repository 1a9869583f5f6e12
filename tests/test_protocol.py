"""The protocol of comparisons: its days, the rate behind small logs, frontiers, intervals, and the command that runs it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from agents.learning import contestants, protocol
from agents.learning.contestants import contestant_of, family_fit
from agents.learning.protocol import Contestant, Outcomes, Trial, held_out_days, outcomes_of
from agents.learning.search import Family, Parameter
from agents.learning.verdict import BETTER, LOSS, MISSED, REACHED, TIE, WIN, cost_at, judge
from agents.policies import registry
from agents.policies.contract import Policy
from agents.policies.registry import choice_of
from flows.cli import _explained, app
from sim_core.errors import InputError
from sim_core.profile import Profile
from sim_core.workload import Trace, read_trace
from sim_core.workload.counting_noise import rate_estimate
from sim_core.world import Lane, Scaler, scale_to_replicas
from tests.conftest import flat, spiky_day

PUBLIC = Path(__file__).parents[2] / "shared" / "traces"


# --- the rate behind a small log


def sine(mean: float, days: float = 5.0, step_s: float = 60.0) -> np.ndarray:
    """Requests a step that a day's wave brings on average."""
    time_s = np.arange(0.0, days * 86_400.0, step_s)
    return mean * (1.0 + 0.6 * np.sin(2.0 * np.pi * time_s / 86_400.0))


def logged(mean_counts: np.ndarray, seed: int = 0) -> Trace:
    """A log of draws, one a minute."""
    return Trace("log", 60.0, np.random.default_rng(seed).poisson(mean_counts) / 60.0)


@pytest.mark.parametrize(("mean", "within"), [(10.0, 0.07), (50.0, 0.03), (300.0, 0.015)])
def test_the_estimate_finds_the_sine_behind_poisson_counts(mean, within):
    """Root mean square of the error over that of the rate: an eighth to a quarter of the counting noise is left."""
    truth, log = sine(mean), logged(sine(mean))
    error = rate_estimate(log).rates_per_s * 60.0 - truth
    noise = log.rates_per_s * 60.0 - truth
    size = math.sqrt(np.mean(truth**2))
    assert math.sqrt(np.mean(error**2)) / size <= within < 0.5 * math.sqrt(np.mean(noise**2)) / size


def test_a_flash_crowd_of_ten_minutes_survives():
    """Three times the rate: 14 standard deviations of 50 counts; its mean is kept to 10 %, and the minutes beside it."""
    truth = sine(50.0)
    truth[3000:3010] *= 3.0
    estimate = rate_estimate(logged(truth)).rates_per_s * 60.0
    assert estimate[3000:3010].mean() == pytest.approx(truth[3000:3010].mean(), rel=0.1)
    assert estimate[2990:3000].mean() == pytest.approx(truth[2990:3000].mean(), rel=0.15)


def test_an_estimate_is_left_alone_when_it_is_taken_again():
    once = rate_estimate(logged(sine(20.0)))
    assert rate_estimate(once) is once


@pytest.mark.parametrize(
    "counts",
    [
        sine(20_000.0).round(),  # noise below 1 %
        sine(50.0).round(),  # whole numbers, but no scatter of draws
        np.random.default_rng(0).poisson(sine(50.0)) / 7.0,  # a mean over hosts: who knows of how many requests
        np.zeros(5000),
    ],
)
def test_what_is_no_counting_noise_stays(counts):
    trace = Trace("kept", 60.0, counts / 60.0)
    assert rate_estimate(trace) is trace


def test_a_busy_log_thinned_to_a_small_one_comes_back_nearer_to_itself():
    """A public log of 266,000 requests a minute is its own rate; of 50 a minute, half of the noise is taken off."""
    file = PUBLIC / "ms_mongo_app01.csv.gz"
    if not file.exists():
        pytest.skip(f"{file.name} is not here")
    busy = read_trace(file)
    assert rate_estimate(busy) is busy
    truth = busy.rates_per_s / busy.mean_per_s * 50.0
    log = logged(truth)
    before, after = (np.mean((t.rates_per_s * 60.0 - truth) ** 2) for t in (log, rate_estimate(log)))
    assert after <= 0.3 * before


# --- the days


def test_the_last_whole_days_are_held_out_and_all_that_lies_before_is_for_tuning():
    days = held_out_days(flat(10.0, 8.4 * 86_400.0))
    assert [start / 86_400.0 for start in days.starts_s] == [3, 4, 5, 6, 7]
    assert days.fits_s == [3 * 86_400.0]
    rolling = held_out_days(flat(10.0, 8.4 * 86_400.0), refit=True)
    assert rolling.starts_s == days.starts_s == rolling.tune_ends_s


def test_a_trace_that_is_too_short_is_told_what_it_would_take():
    with pytest.raises(InputError, match=r"lasts 3h; the protocol takes 7 blocks.*\(7d\) of 1d, or a --block of 25m"):
        held_out_days(flat(10.0, 3 * 3600.0))
    assert held_out_days(flat(10.0, 3600.0), block_s=300.0).starts_s[0] == 7 * 300.0
    assert len(held_out_days(flat(10.0, 3 * 3600.0), block_s=25 * 60.0).starts_s) == 5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"days": 4}, "--days must be at least 5"),
        ({"block_s": 310.0}, "--block must be a multiple of the controllers' period of 15 s"),
        ({"block_s": 30.0}, "--block must be at least a step of the trace, 1m"),
    ],
)
def test_wrong_days_and_blocks_are_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        held_out_days(flat(10.0, 30 * 86_400.0), **wrong)


# --- cost at equal attainment


def test_cost_is_linear_in_the_logarithm_of_the_bad_share():
    """Between 4 % at 10 USD and 1 % at 14 USD, 2 % costs 12 USD."""
    cost, note = cost_at(np.array([[0.04], [0.01]]), np.array([[10.0], [14.0]]), 0.02)
    assert cost[0] == pytest.approx(12.0) and note[0] == REACHED


def test_nothing_is_extrapolated():
    shares, pods = np.array([[0.04], [0.01]]), np.array([[10.0], [14.0]])
    missed, note = cost_at(shares, pods, 0.005)
    assert math.isnan(missed[0]) and note[0] == MISSED
    better, note = cost_at(shares, pods, 0.1)
    assert better[0] == 10.0 and note[0] == BETTER
    assert cost_at(shares, pods, 0.01)[0][0] == 14.0


def test_a_setting_that_another_beats_in_both_costs_no_more_than_that():
    cost, _ = cost_at(np.array([[0.04], [0.02], [0.01]]), np.array([[10.0], [15.0], [14.0]]), 0.01)
    assert cost[0] == 14.0
    assert cost_at(np.array([[0.04], [0.01], [0.005]]), np.array([[10.0], [9.0], [12.0]]), 0.01)[0][0] == 9.0


# --- intervals, on a made-up world whose truth is known

SHARES = 0.08 / 2.0 ** np.arange(8)  # of bad requests by point of a frontier


def made_up(
    name: str, pods_usd: float, rng_days: Sequence[np.random.Generator], rng: np.random.Generator, trainings: int = 1,
    days: int = 5, seeds: int = 4,
) -> Outcomes:  # fmt: skip
    """A policy whose pods cost 2 USD more for half of the bad requests, and `pods_usd` at 1 %.

    Days share factors of bad requests and summands of pods among all policies; seeds, and what each policy has to itself on
    a day, add to them; trainings move its pods.
    """
    bad_day = np.exp(0.5 * rng_days[0].standard_normal(days) - 0.125)
    pods_day = rng_days[1].standard_normal(days)
    own_day = np.exp(0.2 * rng.standard_normal(days) - 0.02), 0.5 * rng.standard_normal(days)
    draw = rng.gamma(20.0, 1.0 / 20.0, (days, seeds)), 0.3 * rng.standard_normal((days, seeds))
    shape = (len(SHARES), trainings, days, seeds)
    requests = np.full(shape, 1e6)
    factor = (bad_day * own_day[0])[:, np.newaxis] * draw[0]
    bad = requests * SHARES[:, np.newaxis, np.newaxis, np.newaxis] * factor
    pods = pods_usd + 2.0 * np.log2(0.01 / SHARES)[:, np.newaxis, np.newaxis, np.newaxis]
    pods = pods + (pods_day + own_day[1])[:, np.newaxis] + draw[1]
    if trainings > 1:
        pods = pods + rng.standard_normal((1, trainings, 1, 1))
    settings = [{"knob": float(k)} for k in range(len(SHARES))]
    return Outcomes(name, settings, 3, requests, bad, np.broadcast_to(pods, shape), np.full(shape, 31.0))


def compared(experiment: int, trainings: int = 1) -> list[Outcomes]:
    """Four policies on the days of one experiment."""
    days = [np.random.default_rng([experiment, k]) for k in range(2)]
    states = [generator.bit_generator.state for generator in days]
    played = []
    for k, (name, usd) in enumerate((("hpa-tuned", 30.0), ("clairvoyant", 20.0), ("a", 25.0), ("b", 26.0))):
        for generator, state in zip(days, states, strict=True):
            generator.bit_generator.state = state
        own = np.random.default_rng([experiment, 10 + k])
        played.append(made_up(name, usd, days, own, trainings if name == "a" else 1))
    return played


TRUTH = {"slo_attainment": 0.99, "pods_at_slo_usd": 25.0, "pods_at_half_budget_usd": 27.0, "gap_closed": 0.5,
         "against_best_pct": 100.0 * (25.0 / 26.0 - 1.0)}  # fmt: skip


def coverage(experiments: int, trainings: int = 1, flatten: bool = False) -> dict[str, float]:
    """How often the intervals of policy `a` hold the truth, as far as they are of the rival `b`."""
    hits: dict[str, list[bool]] = {name: [] for name in TRUTH}
    for experiment in range(experiments):
        played = compared(experiment, trainings)
        if flatten:  # as if every seed were a day of its own
            played = [as_days(outcome) for outcome in played]
        row = judge(played, 0.99, resamples=400).table.set_index("policy").loc["a"]
        for name, truth in TRUTH.items():
            if name != "against_best_pct" or row["best_rival"] == "b":
                hits[name].append(bool(row[f"{name}_ci95_low"] <= truth <= row[f"{name}_ci95_high"]))
    return {name: float(np.mean(found)) for name, found in hits.items()}


def as_days(played: Outcomes) -> Outcomes:
    arrays = [getattr(played, name) for name in ("requests", "bad", "pods_usd", "fixed_usd")]
    flat_ = [array.reshape(*array.shape[:2], -1, 1) for array in arrays]
    return Outcomes(played.name, played.settings, played.tuned, *flat_)


@pytest.mark.parametrize("trainings", [1, 3])
def test_intervals_hold_the_truth_as_often_as_they_say(trainings):
    """95 % intervals over five days of four seeds: 90 to 98.5 % of 300 experiments."""
    found = coverage(300, trainings)
    assert all(0.90 <= share <= 0.985 for share in found.values()), found


def test_intervals_that_take_seeds_for_days_are_too_narrow():
    found = coverage(150, flatten=True)
    assert all(found[name] < 0.8 for name in ("slo_attainment", "pods_at_slo_usd")), found


# --- who is played


class ByLane:
    """HPA or static, lane k with settings k."""

    def __init__(self, name: str, scalers: Sequence[Scaler]):
        self.name, self._scalers = name, list(scalers)

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        assert len(lanes) == len(self._scalers)

    def predict(self, observations: Any) -> np.ndarray:
        raise NotImplementedError

    def scalers(self) -> list[Scaler] | None:
        return self._scalers


def hpa_by_lane(settings: Sequence[Mapping[str, Any]]) -> Policy:
    return ByLane("hpa-tuned", [Scaler.hpa(**each) for each in settings])


def static_by_lane(settings: Sequence[Mapping[str, Any]]) -> Policy:
    return ByLane("static", [Scaler.static(int(each["replicas"])) for each in settings])


TARGET = "target_cpu_utilization_pct"
HPA = Family(lambda part: [Parameter(TARGET, 20, 95, whole=True, default=70)], hpa_by_lane, TARGET)
STATIC = Family(lambda part: [Parameter("replicas", 2, 40, log=True, whole=True)], static_by_lane, "replicas")
BLOCK_S = 900.0


@pytest.fixture(scope="module")
def trial(production: Profile) -> Trial:
    """Seven blocks of a quarter of an hour, five of them held out, two seeds each."""
    waves = spiky_day(20.0, days=7 * BLOCK_S / 86_400.0)
    trace = scale_to_replicas(
        Trace("waves", 60.0, waves.rates_per_s * (1.5 + np.sin(np.arange(len(waves.rates_per_s)) / 6.0))),
        production,
        10,
    )
    return Trial(production, trace, held_out_days(trace, BLOCK_S), seeds=2)


@pytest.fixture(scope="module")
def hpa(trial: Trial) -> Outcomes:
    fit = family_fit(HPA, trial.parts()[0], {TARGET: 60}, budget_days=0.1)
    return outcomes_of(Contestant("hpa-tuned", [fit]), trial)


def test_a_contestant_is_played_with_all_its_settings_on_all_days(hpa, trial):
    """More utilization, fewer pods; as found it is one of the points."""
    targets = [settings[TARGET] for settings in hpa.settings]
    assert targets == sorted(targets) and targets[hpa.tuned] == 60 and len(set(targets)) == len(targets)
    assert hpa.pods_usd.shape == (len(targets), 1, 5, 2)
    pods = hpa.pods_usd.mean(axis=(1, 2, 3))
    assert pods[0] > pods[hpa.tuned] > pods[-1]
    assert (hpa.bad <= hpa.requests).all() and (hpa.requests > 0).all()
    assert hpa.fixed_usd == pytest.approx(31.32, rel=0.01)  # a day


def test_contestants_meet_the_same_draws(hpa, trial):
    """Requests are the same lane by lane but for retries, whoever scales; and no two days share a seed."""
    fit = family_fit(STATIC, trial.parts()[0], {"replicas": 12}, budget_days=0.1)
    static = outcomes_of(Contestant("static", [fit]), trial)
    np.testing.assert_allclose(static.requests[static.tuned], hpa.requests[hpa.tuned], rtol=1e-3)
    seeds = [lane.seed for lane in trial.lanes(range(5))]
    assert len(set(seeds)) == 10


def test_a_frontier_that_does_not_hold_the_slo_is_carried_on(trial):
    """From far too many pods towards fewer, until the attainment of the SLO lies on it or three values were added."""
    narrow = Family(STATIC.parameters, static_by_lane, "replicas", knob_factors=(1.0, 1.3))
    fit = family_fit(narrow, trial.parts()[0], {"replicas": 16}, budget_days=0.1)
    played = outcomes_of(Contestant("static", [fit]), trial)
    counts = [settings["replicas"] for settings in played.settings]
    assert counts == sorted(counts) and counts[-2:] == [16, 21] and 3 <= len(counts) <= 5
    assert counts[played.tuned] == 16


def test_a_policy_that_is_taken_as_it_is_is_one_point(trial):
    """The HPA of the profile, without a search: what the same scaler does lane by lane."""
    played = outcomes_of(contestant_of(choice_of("hpa", "evaluate"), trial.parts(), budget_days=0.1), trial)
    assert played.settings == [{}] and played.tuned == 0
    fit = protocol.Fit({}, [], [hpa_by_lane])
    by_lane = outcomes_of(Contestant("hpa", [fit]), trial)
    np.testing.assert_array_equal(played.pods_usd, by_lane.pods_usd)


def test_trainings_and_days_may_have_policies_of_their_own(trial):
    """Two trainings that differ, and a fit for every day: each plays its own."""
    rolling = Trial(trial.profile, trial.trace, held_out_days(trial.trace, BLOCK_S, refit=True), seeds=1)
    assert len(rolling.parts()) == 5
    counts = iter((6, 8, 10, 12, 14))

    def more(settings: Sequence[Mapping[str, Any]]) -> Policy:
        return static_by_lane([{"replicas": each["replicas"] + 3} for each in settings])

    fits = [protocol.Fit({"replicas": next(counts)}, [], [static_by_lane, more]) for _ in range(5)]
    pods = outcomes_of(Contestant("agent", fits), rolling).pods_usd[0, :, :, 0]
    assert (np.diff(pods, axis=1) > 0.0).all()
    np.testing.assert_allclose(pods[1] - pods[0], 3 * pods[0, 0] / 6, rtol=1e-2)


def test_a_policy_that_weighs_bad_requests_gets_a_frontier_of_prices(monkeypatch, trial):
    entry = registry.POLICIES["clairvoyant"]
    if contestants.PRICE_KNOB not in entry.settings:
        from dataclasses import replace

        entry = replace(entry, settings=(contestants.PRICE_KNOB,))
        monkeypatch.setitem(registry.POLICIES, "clairvoyant", entry)
    (fit,) = contestant_of(choice_of("clairvoyant", "evaluate"), trial.parts()[:1], 1.0).fits
    assert fit.tuned == {} and [settings[contestants.PRICE_KNOB] for settings in fit.frontier] == list(
        contestants.PRICES
    )
    assert fit.wider(fit.frontier[-1], True) == {contestants.PRICE_KNOB: pytest.approx(6.0)}


# --- the verdict


def rows_of(played: Sequence[Outcomes]) -> dict[str, dict[str, Any]]:
    table = judge(played, 0.99, resamples=200).table
    return {str(row["policy"]): {str(key): value for key, value in row.items()} for row in table.to_dict("records")}


def constant(
    name: str, pods_usd: float, day_pods: Sequence[float] = (0, 1, 2, 3, 4), worst: float = 0.0025
) -> Outcomes:
    """A policy of which nothing is random but days; half of the bad requests cost 2 USD more, down to `worst`."""
    shares = np.array([s for s in SHARES if s >= worst])
    shape = len(shares), 1, len(day_pods), 2
    pods = pods_usd + 2.0 * np.log2(0.01 / shares)[:, np.newaxis, np.newaxis, np.newaxis]
    pods = np.broadcast_to(pods + np.array(day_pods, dtype=float)[:, np.newaxis], shape)
    bad = np.broadcast_to(1e6 * shares[:, np.newaxis, np.newaxis, np.newaxis], shape)
    settings = [{"knob": float(k)} for k in range(len(shares))]
    return Outcomes(name, settings, 0, np.full(shape, 1e6), bad, pods, np.full(shape, 31.0))


def test_the_table_ranks_rivals_at_equal_attainment():
    """What they cost as tuned, all at 8 % of bad requests, does not matter; ceilings have no rank."""
    rows = rows_of([constant("hpa-tuned", 30.0), constant("rule", 24.0), constant("clairvoyant", 18.0)])
    assert (rows["rule"]["rank"], rows["hpa-tuned"]["rank"], rows["clairvoyant"]["ceiling"]) == (1, 2, True)
    assert rows["rule"]["pods_at_slo_usd"] == pytest.approx(26.0)  # its days cost 2 USD more on average
    assert rows["rule"]["pods_at_half_budget_usd"] == pytest.approx(28.0)
    assert rows["rule"]["gap_closed"] == pytest.approx(0.5)
    assert rows["rule"]["against_best_pct"] == pytest.approx(100 * (26 / 32 - 1))
    assert (rows["rule"]["best_rival"], rows["hpa-tuned"]["best_rival"]) == ("hpa-tuned", "rule")
    assert (rows["rule"]["outcome"], rows["hpa-tuned"]["outcome"]) == (WIN, LOSS)
    assert rows["rule"]["keeps_slo"] is False  # as tuned


def test_a_learned_policy_meets_its_own_rule_and_no_other_learned_one():
    """At 1 % `general` costs 24, `agent` 25, their rules 26 and 30: agent and general are no rivals, rules are."""
    costs = {"agent": 25.0, "general": 24.0, "agent(kept=0)": 26.0, "general(kept=0)": 30.0, "hpa-tuned": 32.0}
    rows = rows_of([constant(name, usd, (0, 0, 0, 0, 0)) for name, usd in costs.items()])
    assert rows["agent"]["best_rival"] == rows["general"]["best_rival"] == "agent(kept=0)"
    assert rows["agent"]["against_rule_pct"] == pytest.approx(100 * (25 / 26 - 1))
    assert rows["general"]["against_rule_pct"] == pytest.approx(100 * (24 / 30 - 1))
    assert math.isnan(rows["hpa-tuned"]["against_rule_pct"])
    assert rows["agent(kept=0)"]["best_rival"] == "general"
    assert (rows["general"]["rank"], rows["agent"]["rank"]) == (1, 2)


def test_what_does_not_reach_the_slo_has_no_cost_there_and_comes_last():
    rows = rows_of([constant("hpa-tuned", 30.0), constant("rule", 10.0, worst=0.02), constant("clairvoyant", 18.0)])
    assert math.isnan(rows["rule"]["pods_at_slo_usd"]) and rows["rule"]["pods_at_slo_usd_note"] == MISSED
    assert math.isnan(rows["rule"]["gap_closed"])
    assert (rows["rule"]["rank"], rows["rule"]["outcome"]) == (2, LOSS)
    assert rows["hpa-tuned"]["outcome"] == WIN  # nobody else is there


def test_the_lower_limit_keeps_the_slo():
    """0.9910 on average of five uneven days is not shown to be 0.99."""
    played = made_up("a", 25.0, [np.random.default_rng(1), np.random.default_rng(2)], np.random.default_rng(3))
    mean = 1.0 - played.bad[3].sum() / played.requests[3].sum()
    row = rows_of([played, constant("b", 30.0)])["a"]
    assert row["slo_attainment"] == pytest.approx(mean)
    assert row["keeps_slo"] is (row["slo_attainment_ci95_low"] >= 0.99)
    assert row["slo_attainment_ci95_low"] < mean < row["slo_attainment_ci95_high"]


def test_days_on_which_nobody_can_differ_are_left_out():
    played = [constant(name, usd) for name, usd in (("hpa-tuned", 30.0), ("clairvoyant", 20.0))]
    for each in played:
        pods = each.pods_usd.copy()
        pods[:, :, [1, 3]] = 5.0  # all at minReplicas
        object.__setattr__(each, "pods_usd", pods)
    verdict = judge(played, 0.99, resamples=200)
    assert verdict.days == [0, 2, 4] and verdict.levels == ["days"]
    row = verdict.table.set_index("policy").loc["hpa-tuned"]
    assert row["pods_usd"] == pytest.approx(played[0].pods_usd[0][:, [0, 2, 4]].mean())


def test_policies_that_cannot_be_told_apart_tie():
    twins = [made_up(name, 25.0, [np.random.default_rng(1), np.random.default_rng(2)], np.random.default_rng(seed))
             for name, seed in (("a", 3), ("b", 4))]  # fmt: skip
    assert {row["outcome"] for row in rows_of(twins).values()} == {TIE}


# --- the command


def write_trace(path: Path, trace: Trace) -> Path:
    rows = [f"{k * trace.step_s:g},{rate:.4f}" for k, rate in enumerate(trace.rates_per_s)]
    path.write_text("t_seconds,requests_per_second\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path, trial: Trial) -> Path:
    """Two traces of seven blocks of a quarter of an hour, and one of an hour."""
    traces = tmp_path / "traces"
    traces.mkdir()
    write_trace(traces / "waves.csv", trial.trace)
    calm = Trace("calm", 60.0, np.sqrt(trial.trace.rates_per_s * trial.trace.mean_per_s))
    write_trace(traces / "calm.csv", calm)
    write_trace(traces / "short.csv", calm.slice(0.0, 3600.0))
    (traces / "notes.txt").write_text("no trace")
    return traces


def sim(*args: str | Path) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


SMALL = ("--block", "15m", "--seeds", "2", "--budget-days", "0.2", "--peak-replicas", "10")


@pytest.mark.slow
def test_the_command_compares_over_a_folder_and_resumes(folder, tmp_path):
    """One table with ranks, wins and losses; the short trace is named; what was played is not played again."""
    state = tmp_path / "state"
    asked = ("benchmark-agents", folder, "--policies", "static,hpa-tuned,clairvoyant", *SMALL, "--state", state)
    done = sim(*asked, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [trace["trace"] for trace in document["traces"]] == ["calm", "waves"]
    (short,) = document["skipped"]
    assert "lasts 1h; the protocol takes 7 blocks" in short["why"]
    policies = document["traces"][1]["policies"]
    assert sorted(entry["rank"] or 0 for entry in policies.values()) == [0, 1, 2]
    assert policies["clairvoyant"]["ceiling"] and policies["clairvoyant"]["rank"] is None
    assert all(len(entry["frontier"]) >= 1 and entry["fixed_usd"] > 0 for entry in policies.values())
    standings = {row["policy"]: row for row in document["standings"]}
    assert set(standings) == {"static", "hpa-tuned"}
    assert all(row["win"] + row["tie"] + row["loss"] == row["traces"] == 2 for row in standings.values())

    kept = {file: file.stat().st_mtime_ns for file in (state / "contests").iterdir()}
    assert len(kept) == 6
    again = sim(*asked)
    assert again.exit_code == 0, again.output
    assert {file: file.stat().st_mtime_ns for file in (state / "contests").iterdir()} == kept
    assert "Over 2 traces" in again.stdout and "waves: 5 held-out blocks of 15m" in again.stdout
    assert "Left out: trace 'short'" in again.stdout

    page = Path(document["report"]).read_text()
    assert "figure-trace-1" in page and "Traces that were left out" in page and "hpa-tuned" in page
    assert "3 policies on 2 traces" in page and "than nan" not in page and "than None" not in page
    client = MlflowClient(f"sqlite:///{state / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "production"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = document["mlflow"]["run_id"]
    assert len(runs) == 3 and runs["waves"].data.tags["mlflow.parentRunId"] == parent
    assert runs["waves"].data.metrics["pods_usd/static"] == pytest.approx(policies["static"]["pods_usd"]["mean"])
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_all_that_is_wrong_with_a_benchmark_is_told_at_once(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong = ("--policies", "hpa-tunde,static", "--block", "7s", "--days", "3", "--peak-replicas", "4000")
    state = tmp_path / "state"
    done = sim("benchmark-agents", empty, tmp_path / "no.csv", *wrong, "--state", state)
    assert done.exception is not None and _explained(done.exception) == 2
    said = capsys.readouterr().err
    for words in (
        "empty: holds no trace",
        "no.csv: no such file or folder",
        "unknown policy 'hpa-tunde'",
        "did you mean 'hpa-tuned'?",
        "--block must be a multiple",
        "--days must be at least 5",
        "--peak-replicas: profile 'production' has at most 100 (got 4000)",
    ):
        assert words in said
    assert not state.exists()


def test_traces_that_are_all_too_short_are_refused(folder, tmp_path, capsys):
    done = sim("benchmark-agents", folder / "short.csv", *SMALL, "--state", tmp_path / "state")
    assert done.exception is not None and _explained(done.exception) == 2
    assert "(105m) of 15m, or a --block of 8m" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
