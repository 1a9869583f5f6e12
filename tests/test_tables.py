"""What the terminal shows of documents: figures rounded down where that matters, costs apart, intervals with their reach."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.learning.evaluate import Evaluation
from experiments.analysis.amounts import attained, percent_down, rounded_down
from experiments.analysis.comparison import best
from experiments.held_out import policies_document, savings_of, table_with_savings
from experiments.report.words import worded
from flows.terminal.output import figure, with_interval
from flows.terminal.tables import show_comparison, show_evaluation, show_run, show_training

FIXED = {"cost_fixed_usd": 31.32, "cost_database_usd": 25.92, "cost_cache_usd": 4.8, "cost_load_balancer_usd": 0.6}


def evaluation(**policies: tuple[float, float, float]) -> Evaluation:
    """Two days of policies with (cost of pods [USD], pod-hours, attainment) and 62.64 USD of fixed cost."""
    rows = []
    for name, (pods_usd, hours, share) in policies.items():
        means = {"cost_pods_usd": pods_usd, "replica_hours": hours, "slo_attainment": share}
        means |= {part: 2.0 * usd for part, usd in FIXED.items()}
        means["cost_usd"] = pods_usd + means["cost_fixed_usd"]
        row: dict[str, Any] = {"policy": name.replace("_", "-"), "keeps_slo": share >= 0.99}
        for indicator, mean in means.items():
            row |= {indicator: mean, f"{indicator}_ci95_low": mean, f"{indicator}_ci95_high": mean}
        rows.append(row)
    gap = {"agent": {"mean": 0.5, "ci95": [0.4, 0.6]}} if "agent" in policies else {}
    return Evaluation(pd.DataFrame(rows), pd.DataFrame(), gap, {})


PLACES = {"no_room": None, "report": "report.html", "mlflow": None}


def document(found: Evaluation, seeds: int = 10) -> dict[str, Any]:
    policies = policies_document(found, duration_s=2 * 86_400.0)
    slo = {"objective": 0.99, "latency_threshold_seconds": 0.3}
    inputs = {"profile": "production", "engine": "fluid", "seeds": seeds, "duration_s": 172_800.0, "slo": slo}
    return inputs | {"policies": policies} | PLACES


# --- rounding


@given(st.floats(0.0, 1.0), st.sampled_from([0.9, 0.99, 0.995, 0.999, 0.9999]))
def test_no_share_that_misses_an_objective_reads_as_one_that_keeps_it(share, objective):
    """In the terminal, in the report, in the reason of a choice: what is shown is never above what was."""
    if share < objective - 1e-9:
        assert float(attained(share, objective).split()[0]) < 100.0 * objective
    for text in (figure("slo_attainment", share).rstrip("%"), figure("availability", share).rstrip("%")):
        assert float(text) <= 100.0 * share + 1e-6
    assert float(worded("availability", share, objective).split()[0]) <= 100.0 * share + 1e-6


def test_rounding_down_keeps_what_is_exact():
    """99.95 % has no exact binary fraction, and stays 99.95 %; nothing is ever 100 % that is not."""
    assert rounded_down(99.95, 2) == 99.95
    assert (attained(0.9995, 0.999), attained(0.9999999, 0.999), attained(1.0, 0.999)) == (
        "99.950 %",
        "99.999 %",
        "100.000 %",
    )
    assert (figure("slo_attainment", 0.989999), figure("slo_attainment", 0.99)) == ("98.999%", "99.000%")
    assert (percent_down(-0.0004, 1), figure("error_budget_left", -0.0004)) == ("-0.1 %", "-0.1%")
    assert percent_down(math.nan, 1) == "–" and figure("slo_attainment", math.nan) == "-"


def test_the_reason_of_a_choice_does_not_round_a_missed_limit_to_a_met_one():
    row = {
        "configuration_key": "k",
        "label": "hpa",
        "cost_usd": 1.0,
        "scenario": "{}",
        "same_as": "k",
        "slo_attainment": 0.98999999,
        "latency_p95_s": 0.3000001,
    }
    reason = best(pd.DataFrame([row]), "cost_usd", {"slo_attainment": 0.99, "latency_p95_s": 0.3}).reason
    assert "(slo_attainment 0.989999, latency_p95_s 0.300001)" in reason


def test_the_last_rollout_of_a_training_is_rounded_down_too(capsys):
    training = {"profile": "production", "steps": 4096, "seed": 1, "last": {"slo/attainment": 0.98996, "step": 4096}}
    training["outcome"] = {"verdict": "the rule ships"}
    model = {"registered": None, "gate": {"passed": False, "failures": []}}
    show_training({"training": training, "model": model, "evaluation": None, "mlflow": {"warning": None, "page": None}})
    assert "98.996%" in capsys.readouterr().out


# --- intervals


def test_an_interval_is_shown_where_there_is_one_that_differs_from_its_mean():
    assert with_interval("cost_usd", 2.0, 1.9, 2.2) == "2.00 [1.90, 2.20]"
    assert with_interval("cost_usd", 2.0, math.nan, math.nan) == with_interval("cost_usd", 2.0, None, None) == "2.00"
    assert with_interval("cost_fixed_usd", 2.0, 1.9999, 2.0001) == "2.00"


@pytest.mark.parametrize(("seeds", "words"), [(1, "1 seed, too few"), (2, "2 seeds, too few"), (3, "3 seeds")])
def test_a_run_of_too_few_seeds_says_that_it_has_no_intervals(capsys, seeds, words):
    lanes = [{"seed": seed, "cost_usd": 2.0} for seed in range(seeds)]
    figures = {"cost_usd": {"mean": 2.0, "ci95": [math.nan, math.nan]}}
    played = {"indicators": figures, "services": {"api": {"calls": {"mean": 9.0}}}, "lanes": lanes}
    shown = {"profile": "production", "engine": "fluid", "seeds": list(range(seeds)), "duration_s": 172_800.0}
    show_run(shown | {"timeline": None, "request_traces": None, "policies": {"hpa": played}})
    out = " ".join(capsys.readouterr().out.split())
    assert f"2d, {words}" in out
    assert ("95 % interval" in out) == (seeds >= 3)


# --- costs and savings


def test_savings_are_told_by_pods_by_the_whole_and_by_the_month(capsys):
    """Two days: 3 of 24 USD saved on pods are 1.5 of 12 a day, 3.5 % of the whole, 45 of 1,300 a month."""
    found = evaluation(hpa_tuned=(24.0, 500.0, 0.995), agent=(21.0, 440.0, 0.995), static=(30.0, 625.0, 1.0))
    assert savings_of(found, 172_800.0)["agent"].replica_hours_share == pytest.approx(0.12)
    shown = document(found)
    assert shown["policies"]["hpa-tuned"]["savings"] is None
    assert shown["policies"]["agent"]["savings"] == {
        "against": "hpa-tuned",
        "replica_hours_share": pytest.approx(0.12),
        "cost_pods_usd_per_day": pytest.approx(1.5),
        "other_cost_pods_usd_per_day": pytest.approx(12.0),
        "cost_usd_share": pytest.approx(3.0 / 86.64),
        "cost_usd_per_month": pytest.approx(45.0),
        "other_cost_usd_per_month": pytest.approx(1299.6),
    }
    show_evaluation(shown)
    out = capsys.readouterr().out
    amounts = "$1.50 of $12.00 a day for pods, $45.00 of $1,300 a month of 30 days in all"
    assert f"agent: 12 % fewer pod-hours than hpa-tuned and 3.5 % less in all ({amounts})" in out
    assert "static: 25 % more pod-hours than hpa-tuned and 6.9 % more in all ($3.00 on top of $12.00 a day" in out


def test_tracking_gets_the_savings_as_figures_of_each_policy():
    found = evaluation(hpa_tuned=(24.0, 500.0, 0.995), agent=(21.0, 440.0, 0.995))
    table = table_with_savings(found, 172_800.0).set_index("policy")
    assert table.loc["agent", "saved_replica_hours_share"] == pytest.approx(0.12)
    assert table.loc["agent", "saved_cost_usd_per_month"] == pytest.approx(45.0)
    assert math.isnan(table.loc["hpa-tuned", "saved_replica_hours_share"])
    assert not [name for name in table if name.startswith(("other", "saved_other"))]
    alone = evaluation(agent=(21.0, 440.0, 0.995))
    pd.testing.assert_frame_equal(table_with_savings(alone, 172_800.0), alone.table)  # nobody to be compared with


def test_what_is_fixed_stands_apart_from_the_pods(capsys):
    found = evaluation(hpa_tuned=(24.0, 500.0, 0.995), agent=(21.0, 440.0, 0.995))
    show_evaluation(document(found))
    out = capsys.readouterr().out
    assert "cost_pods_usd" in out and "21.00" in out and "83.64" in out
    assert "fixed whatever the policy does: 62.64 (cache 9.60, database 51.84, load balancer 1.20)" in out


def test_a_comparison_names_the_range_of_fixed_costs_and_bears_old_rows_without_them(capsys):
    def row(key: str, **means: float) -> dict[str, Any]:
        indicators = {name: {"mean": mean, "ci95": [None, None]} for name, mean in means.items()}
        chosen = {"policy": key, "settings": {}, "parameters": {}, "scenario": {}}
        return {"group": 1, "configuration_key": key, "label": key, "indicators": indicators, **chosen}

    best = {"configuration_key": "a", "label": "a", "reason": "lowest cost_usd", "ties": []}
    group = {"group": 1, "sweeps": ["demo"], "baseline": None, "pareto_front": ["a"], "best": best}
    group |= {"best_by_scenario": [], "ties": [], "without_effect": []}
    shown = {"groups": [group], "baseline": None}
    rows = [row("a", cost_usd=33.0, **FIXED), row("b", cost_usd=45.0, **(FIXED | {"cost_fixed_usd": 40.0}))]
    show_comparison(shown | {"configurations": rows})
    assert "31.32 to 40.00 (cache 4.80, database 25.92," in capsys.readouterr().out
    show_comparison(shown | {"configurations": [row("a", cost_usd=33.0)]})
    assert "fixed" not in capsys.readouterr().out


def test_the_interval_of_the_gap_says_what_it_is_over(capsys):
    found = evaluation(hpa_tuned=(24.0, 500.0, 0.995), agent=(21.0, 440.0, 0.995))
    show_evaluation(document(found))
    assert "over the seeds of one stretch of 2d and one training" in capsys.readouterr().out
    show_evaluation(document(found, seeds=2))
    assert "one training" not in capsys.readouterr().out  # there is no interval
