"""Intervals, paired differences, the Pareto front and the choice of the best configuration."""

import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis.comparison import best, compare, indicators_of, paired_difference, pareto_front
from sim_core.intervals import interval


def rows(
    policy: str, costs: list[float], attainments: list[float], first_seed: int = 0, **settings: object
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": [f"{policy}{settings}{i}" for i in range(len(costs))],
            "configuration_key": f"{policy}{settings}",
            "policy": policy,
            "settings": json.dumps(settings),
            "parameters": "{}",
            "seed": range(first_seed, first_seed + len(costs)),
            "cost_usd": costs,
            "slo_attainment": attainments,
            "compute_s": 0.1,
        }
    )


def test_pairing_removes_what_the_seeds_share():
    """A difference of exactly 1 on each seed has no width, although both means have wide intervals."""
    hpa = rows("hpa", [10.0, 20.0, 30.0], [0.9, 0.9, 0.9])
    static = rows("static", [11.0, 21.0, 31.0], [0.9, 0.9, 0.9])
    difference = paired_difference(static, hpa, "cost_usd")
    assert difference.mean == pytest.approx(1.0)
    assert difference.high - difference.low == pytest.approx(0.0, abs=1e-9)
    assert interval(static["cost_usd"]).high - interval(static["cost_usd"]).low > 40.0


def test_pairs_are_the_seeds_that_both_have():
    hpa = rows("hpa", [1.0, 2.0, 3.0], [1, 1, 1], first_seed=0)
    static = rows("static", [12.0, 13.0, 14.0], [1, 1, 1], first_seed=1)  # seeds 1, 2, 3
    difference = paired_difference(static, hpa, "cost_usd")
    assert difference.n == 2
    assert difference.mean == pytest.approx(10.0)


def test_compare_has_one_row_a_configuration_with_intervals_and_differences():
    points = pd.concat(
        [
            rows("hpa", [1.0, 2.0, 3.0], [0.9, 0.8, 0.7], target=60),
            rows("static", [4.0, 5.0, 6.0], [1.0, 1.0, 1.0], replicas=8),
        ]
    )
    table = compare(points, baseline="hpa{'target': 60}")
    assert table["label"].tolist() == ["hpa target=60", "static replicas=8"]
    assert table["seeds"].tolist() == [3, 3]
    assert table["cost_usd"].tolist() == [2.0, 5.0]
    assert table["cost_usd_diff"].tolist() == [0.0, 3.0]
    half = 4.30265 / math.sqrt(3)  # t(0.975, 2) times a deviation of 1
    assert table["cost_usd_ci95_high"][0] == pytest.approx(
        2.0 * math.exp(half / 2.0), rel=1e-4
    )  # above 0: on the log scale
    assert table["cost_usd_diff_ci95_high"][1] == table["cost_usd_diff_ci95_low"][1] == 3.0  # the same with every seed
    assert indicators_of(points) == ["cost_usd", "slo_attainment"]
    with pytest.raises(KeyError, match="baseline 'x' is not one of the 2"):
        compare(points, baseline="x")


def test_no_interval_of_a_comparison_leaves_what_is_possible():
    """Three seeds of which one fails half of its requests: Student's interval would promise an attainment of 120 %."""
    points = rows("hpa", [0.1, 0.2, 9.0], [1.0, 0.999, 0.5]).assign(
        scale_events=[0, 0, 90], error_ratio=[0.0, 0.0, 0.5]
    )
    row = compare(points).iloc[0]
    for name in ("cost_usd", "scale_events", "error_ratio", "slo_attainment"):
        assert 0.0 <= row[f"{name}_ci95_low"] < row[name] < row[f"{name}_ci95_high"]
    assert row["slo_attainment_ci95_high"] <= 1.0 and row["error_ratio_ci95_high"] <= 1.0
    assert math.isnan(compare(points.iloc[:2])["cost_usd_ci95_low"][0])  # and two seeds have none


def test_pareto_front_of_a_hand_made_set():
    table = pd.DataFrame(
        {"cost_usd": [5, 1, 2, 2, 4, 3, math.nan], "slo_attainment": [0.99, 0.90, 0.95, 0.93, 0.95, 0.97, 1.0]}
    )
    assert pareto_front(table).index.tolist() == [1, 2, 5, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25))
def test_pareto_front_is_exactly_what_nobody_dominates(pairs):
    table = pd.DataFrame(pairs, columns=["cost_usd", "slo_attainment"])

    def dominated(cost: int, value: int) -> bool:
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in pairs)

    expected = {i for i, (cost, value) in enumerate(pairs) if not dominated(cost, value)}
    front = pareto_front(table)
    assert set(front.index) == expected
    assert front["cost_usd"].is_monotonic_increasing


def test_best_is_the_cheapest_that_keeps_the_slo():
    points = pd.concat(
        [
            rows("static", [9.0, 9.0], [0.999, 0.999], replicas=20),
            rows("hpa", [5.0, 5.0], [0.996, 0.994], target=60),
            rows("hpa", [3.0, 3.0], [0.98, 0.98], target=90),
        ]
    )
    found = best(compare(points), "cost_usd", {"slo_attainment": 0.995})
    assert (found.label, found.feasible) == ("hpa target=60", True)
    assert found.reason == "lowest cost_usd of the 2 of 3 configurations that meet slo_attainment >= 0.995"


def test_when_none_keeps_the_slo_the_nearest_wins_and_it_is_said():
    points = pd.concat([rows("hpa", [3.0], [0.90], target=90), rows("hpa", [5.0], [0.95], target=60)])
    found = best(compare(points), "cost_usd", {"slo_attainment": 0.995})
    assert (found.label, found.feasible) == ("hpa target=60", False)
    assert "none of 2 configurations meets slo_attainment >= 0.995" in found.reason
    assert "slo_attainment 0.95" in found.reason


def test_upper_limits_hold_for_indicators_of_which_less_is_better():
    table = compare(pd.concat([rows("hpa", [3.0], [0.90], target=90), rows("hpa", [5.0], [0.95], target=60)]))
    assert best(table, "cost_usd", {"cost_usd": 4.0}).label == "hpa target=90"
    assert best(table, "cost_usd", {}).label == "hpa target=90"
    with pytest.raises(ValueError, match="no configuration"):
        best(table.iloc[:0], "cost_usd", {})
