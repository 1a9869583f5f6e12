"""A day of decisions: what is told and drawn is what was decided, and the words are worked out from it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agents.learning.evaluate import EvaluateRequest, Evaluation, evaluate, told_of
from agents.policies.explained import COLUMNS, decisions_of
from agents.policies.learned import general_policy
from agents.policies.rule import RulePolicy, cheapest
from agents.policies.static import StaticPolicy
from experiments.analysis.decisions import clock, day_in_words, forecast_errors, in_words
from experiments.report import ReportData, write_pictures, write_report
from experiments.report.decisions import decision_caption, decision_day, decision_figure
from experiments.report.figures import shown_in_timeline
from flows.commands.explain import ExplainRequest, explain
from flows.inputs import TrafficChoice
from sim_core.errors import InputError
from sim_core.profile import load_profile
from sim_core.world import Lane, scale_to_replicas
from tests.conftest import spiky_day
from tests.test_report import evaluation as invented
from tests.test_report import report_data

HOUR_S, DAY_S = 3600.0, 86_400.0
PRODUCTION = load_profile("production")
TRACE = scale_to_replicas(spiky_day(500.0, days=2.0), PRODUCTION, 20)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Two hours before noon on the second day, under three policies."""
    policies = [StaticPolicy(12), RulePolicy(), general_policy()]
    return evaluate(EvaluateRequest(PRODUCTION, TRACE, policies, DAY_S + 9 * HOUR_S, 2 * HOUR_S, seeds=2))


def data_of(evaluation: Evaluation) -> ReportData:
    return report_data(evaluation=evaluation.table, timelines=evaluation.timelines, decisions=evaluation.decisions)


def day(**columns: object) -> pd.DataFrame:
    """Four decisions made by hand, a quarter of an hour apart from 12:00 on; others in their columns."""
    rows = {name: [0.0] * 4 for name in COLUMNS}
    rows |= {"at_s": [DAY_S / 2 + 900.0 * k for k in range(4)], "service": ["api"] * 4, "stale": [False] * 4}
    rows |= {"ahead_s": [60.0] * 4, "load": [10.0] * 4, "forecast": [10.0] * 4, "budget_spent": [0.5] * 4}
    rows |= {"needed": [12, 14, 12, 12], "margin": [0.2, 0.4, 0.2, 0.2], "desired": [12, 14, 14, 12]}
    return pd.DataFrame({"policy": ["agent"] * 4, **rows, **columns})


# --- what is told


def test_the_decisions_of_an_evaluation_are_those_of_its_first_seed(evaluation):
    """Played alone and watched, the policy asks for what it asked for among the other seeds, minute by minute."""
    decisions, timeline = evaluation.decisions, evaluation.timelines["general"]
    assert set(decisions["policy"]) == {"general"}
    assert list(decisions.columns) == ["policy", *COLUMNS]
    np.testing.assert_array_equal(np.diff(decisions["at_s"]), 15.0)
    np.testing.assert_allclose(decisions["at_s"] - decisions["time_s"], DAY_S + 9 * HOUR_S)
    last = np.searchsorted(decisions["time_s"], timeline["time_s"], side="right") - 1
    np.testing.assert_array_equal(decisions["desired"].to_numpy()[last], timeline["replicas_desired"])
    assert decisions["desired"].nunique() > 5  # else there was nothing to decide
    ready_then = np.interp(decisions["time_s"], timeline["time_s"], timeline["replicas_ready"])
    assert np.abs(decisions["ready"] - ready_then).mean() < 0.5


def test_the_agent_is_told_of_before_other_models_the_general_one_and_the_rule():
    def named(policy, name):
        policy.name = name
        return policy

    rule, general = RulePolicy(), general_policy()
    champion, agent = named(general_policy(), "models:/a@champion"), named(general_policy(), "agent")
    assert told_of([rule, general, champion, StaticPolicy(3), agent]) is agent
    assert told_of([rule, general, champion]) is champion
    assert told_of([StaticPolicy(3), rule, general]) is general
    assert told_of([StaticPolicy(3), rule]) is rule
    assert told_of([StaticPolicy(3)]) is None


def test_what_is_provided_for_lies_around_the_forecast_and_wider_where_it_is_unsure(evaluation):
    known = evaluation.decisions[~evaluation.decisions["stale"]]
    assert (known["low"] < known["high"]).all()
    width = np.log(known["high"] / known["low"])
    assert np.corrcoef(width, known["uncertainty"])[0, 1] > 0.999
    assert (width >= 2 * 1.645 * known["uncertainty"]).all()


def test_pods_for_uncertainty_and_budget_are_what_the_rule_would_not_have_needed():
    """With no spread and the usual price the same search needs just those pods less."""
    lane = Lane(PRODUCTION, TRACE, 5, DAY_S + 9 * HOUR_S)
    policy = RulePolicy(count_weight=0.4, backlog_weight=0.0, feedback=2.0)
    decisions = decisions_of(policy, lane, HOUR_S)
    rule, capacity = policy.rules[0], policy.capacity
    assert decisions["for_uncertainty"].max() >= 2 and decisions["for_budget"].nunique() > 1
    budget = 1.0 - PRODUCTION.slo.objective
    for row in decisions.iloc[20::40].to_dict("records"):
        exact = cheapest(
            capacity.bad[0], capacity.least, capacity.most, np.log(row["forecast"] / rule["full_load"]), 0.0,
            rule["tail"], rule["price"] * row["forecast"] / rule["full_load"] / budget, 3, 40,
        )  # fmt: skip
        told = row["needed"] - row["for_uncertainty"] - row["for_budget"]
        assert told >= exact  # the nearer horizon may need more
        assert told <= exact + 1


# --- in words


def test_the_extremes_of_the_margin_are_told_with_their_reasons():
    decisions = day(
        uncertainty=[0.05, 0.15, 0.05, 0.05], for_uncertainty=[1, 3, 1, 1], for_budget=[0, 1, 0, -1],
        needed=[12, 14, 12, 11], margin=[0.2, 0.4, 0.2, 0.1], budget_spent=[0.9, 1.3, 0.9, 0.4],
    )  # fmt: skip
    forecasts, most, least, budget = day_in_words(decisions)
    assert forecasts.startswith(
        "4 decisions for api, each on a forecast for 1 min 00 s later: half of them came within 0 %"
    )
    assert most == (
        "The largest margin over the forecast was +40 % at 12:15: 14 replicas for 10.0 pods of load, give or take 15 % "
        "(10 would have cost least had the forecast been exact, 3 more for its uncertainty, 1 more since 130 % of the error "
        "budget was spent)."
    )
    assert least.startswith("The smallest was +20 % at 12:00: 12 replicas")  # 11 were the fewest: no choice, maybe
    assert "it read 40 % at 12:45 at the least, 130 % at 12:15 at the most, 40 % at 12:45 in the end" in budget
    assert budget.endswith("it was overspent 25 % of the time.")


def test_what_was_learned_is_told_of_who_learned():
    assert not any("learned" in sentence for sentence in day_in_words(day()))
    told = day_in_words(day(residual=[-0.05, 0.01, 0.0, -0.04]))
    assert "What it learned changed the load that it provided for by −2.0 % in the mean, from −5.0 % to +1.0 %." in told


def test_late_pods_and_old_metrics_are_told_and_the_time_before_the_first_scrape_is_not():
    quiet = " ".join(day_in_words(day(stale=[True, False, False, False])))
    assert "too old" not in quiet and "3 decisions" in quiet
    told = " ".join(day_in_words(day(stale=[True, False, True, False], overdue=[0, 2, 0, 1])))
    assert "1 decisions held on metrics that were too old, the first at 12:30." in told
    assert "did not count in 2 decisions; the most were 2 at 12:15." in told
    assert day_in_words(day(stale=[True] * 4)) == []


def test_a_forecast_is_judged_by_the_load_of_the_time_it_was_for():
    decisions = day(ahead_s=[900.0] * 4, load=[10.0, 20.0, 40.0, 10.0], forecast=[22.0, 40.0, 5.0, 1.0])
    np.testing.assert_allclose(forecast_errors(decisions), [0.1, 0.0, 0.5])  # the last came true after the end


def test_a_decision_in_words_and_the_clock():
    assert [clock(at_s) for at_s in (0.0, DAY_S - 1.0, 8 * DAY_S + 3661.0)] == ["00:00:00", "23:59:59", "01:01:01"]
    row = day(desired=[15] * 4).iloc[1].to_dict()
    assert in_words(row).startswith("12:15:00 api: the last scrape showed a load of 10.0 pods")
    assert in_words(row).endswith("14 replicas cost least (+40%). Asked for: 15 (+1 by holds and bounds).")


# --- as a figure


def test_the_figure_shows_the_decisions_as_they_were(evaluation):
    """Two hours need no thinning: every curve is its column, and steps are complete."""
    decisions, shown = evaluation.decisions, decision_day(data_of(evaluation))
    figure = decision_figure(shown)
    curves = {trace.name: trace for trace in figure.data if trace.name}
    assert set(curves) == {
        "load seen", "load provided for (90 %)", "forecast", "replicas ready", "replicas chosen", "margin", "budget",
    }  # fmt: skip
    clock_ms = 1000.0 * decisions["at_s"]  # drawn on a second day, since plotly takes numbers of four digits for years
    known = ~decisions["stale"].to_numpy()
    for name, column in (("load seen", "load"), ("forecast", "forecast"), ("load provided for (90 %)", "high")):
        np.testing.assert_allclose(curves[name].x, clock_ms)
        np.testing.assert_allclose(np.asarray(curves[name].y)[known], decisions[column][known], rtol=1e-6)
        assert np.isnan(np.asarray(curves[name].y)[~known]).all()  # nothing is claimed before the first scrape
    low = next(trace for trace in figure.data if trace.legendgroup == "band" and trace.fill is None)
    np.testing.assert_allclose(np.asarray(low.y)[known], decisions["low"][known], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(curves["margin"].y)[known], 100.0 * decisions["margin"][known], rtol=1e-5)
    np.testing.assert_allclose(
        np.asarray(curves["budget"].y)[known], 100.0 * decisions["budget_spent"][known], rtol=1e-5
    )
    for name, column in (("replicas chosen", "desired"), ("replicas ready", "ready")):
        steps = curves[name]
        assert steps.line.shape == "hv"
        place = np.searchsorted(np.asarray(steps.x), clock_ms, side="right") - 1
        np.testing.assert_array_equal(np.asarray(steps.y)[place], decisions[column])


def test_a_whole_day_is_thinned_and_keeps_its_largest_margin(evaluation):
    long = pd.concat([evaluation.decisions] * 12, ignore_index=True)
    long["at_s"] = DAY_S + 15.0 * np.arange(len(long)) + 3.0
    shown = decision_day(dataclasses.replace(data_of(evaluation), decisions=long))
    known = long[~long["stale"]]
    assert max(len(shown.time_s), len(shown.margin[0])) <= 1_500 < len(long)
    assert np.nanmax(shown.margin[1]) == known["margin"].max()
    assert np.nanmin(shown.margin[1]) == known["margin"].min()
    assert np.nanmean(shown.load) == pytest.approx(known["load"].mean(), rel=1e-3)


def test_the_page_shows_the_day_with_its_words_and_a_text_for_who_sees_no_figure(evaluation, tmp_path: Path):
    data = data_of(evaluation)
    shown = decision_day(data)
    html = write_report(data, tmp_path / "report.html").read_text()
    assert "<h2>A day of decisions: the general agent</h2>" in html
    assert f'id="figure-decisions" role="img" aria-label="{decision_caption(shown)}"' in html
    assert "service api" in decision_caption(shown)
    text = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
    for sentence in shown.sentences:
        assert f"<li>{sentence}</li>" in text
    largest = evaluation.decisions[~evaluation.decisions["stale"]].query("needed > needed.min()")
    top = largest.loc[largest["margin"].idxmax()]
    assert f"+{100 * top['margin']:.0f} % at {clock(top['at_s'])[:5]}: {top['needed']} replicas" in text
    drawn = json.loads(re.search(r'id="figure-data">(.*?)</script>', html, flags=re.S)[1])
    assert "decisions" in drawn["figures"]
    assert "decisions.png" in [path.name for path in write_pictures(data, tmp_path)]


def test_a_day_of_curves_shows_from_the_start_who_decided(evaluation):
    """Beside the HPA the trained agent; where there is none the general one, else the rule."""
    curves = {name: evaluation.timelines["rule"] for name in ("static", "hpa-tuned", "rule", "general", "agent")}
    for left_out, shown in ((), "agent"), (("agent",), "general"), (("agent", "general"), "rule"):
        timelines = {name: curve for name, curve in curves.items() if name not in left_out}
        data = report_data(evaluation=invented().query("policy != 'agent'"), timelines=timelines)
        assert shown_in_timeline(data) == ["hpa-tuned", shown]


def test_a_report_without_decisions_shows_none(tmp_path: Path):
    for decisions in (None, pd.DataFrame(), day(stale=[True] * 4)):
        data = report_data(evaluation=invented(), decisions=decisions)
        assert decision_day(data) is None
        assert "A day of decisions" not in write_report(data, tmp_path / "report.html").read_text()


# --- explain


def test_explain_tells_the_decisions_around_a_moment_and_writes_the_whole_day(tmp_path: Path):
    """Whatever is written, the moment is told alike: the traffic of a generator is that of the whole day."""
    traffic = TrafficChoice(None, "diurnal", 0, 20.0)
    asked = ExplainRequest("general", "production", [], traffic, "10:00", 1000, "1d", None)
    told = explain(asked)
    assert [row["asked"] for row in told["decisions"]] == [False] * 4 + [True] + [False] * 4
    (row,) = [row for row in told["decisions"] if row["asked"]]
    assert row["clock"].startswith(("09:59", "10:00")) and told["in_words"][0].startswith(row["clock"])
    assert set(COLUMNS) <= set(row)
    written = {}
    for ending, read in ((".parquet", pd.read_parquet), (".csv", pd.read_csv)):
        file = tmp_path / f"day{ending}"
        assert explain(dataclasses.replace(asked, output=file))["decisions"] == told["decisions"]
        written[ending] = read(file)
        assert list(written[ending].columns) == [*COLUMNS, "clock"]
        assert len(written[ending]) == DAY_S / 15.0
    pd.testing.assert_frame_equal(written[".parquet"], written[".csv"], check_dtype=False)
    with pytest.raises(InputError, match=r"--output .*must end in .parquet or .csv"):
        explain(dataclasses.replace(asked, output=tmp_path / "day.txt"))


def test_explain_reaches_the_last_decision_of_a_trace(tmp_path: Path):
    """A day of two; a minute before its end there are fewer decisions after the moment than before it."""
    file = tmp_path / "trace.csv"
    rows = "".join(f"{300 * k},{200 + 100 * np.sin(k / 40):.1f}\n" for k in range(2 * 288))
    file.write_text("t_seconds,requests_per_second\n" + rows)
    traffic = TrafficChoice(file, "diurnal", 0, 20.0)
    asked = ExplainRequest("rule", "production", [], traffic, "23:59:50", 0, "1d", None, tmp_path / "day.csv")
    told = explain(asked)["decisions"]
    assert [row["asked"] for row in told] in ([False] * 4 + [True], [False] * 4 + [True, False])
    assert len(pd.read_csv(tmp_path / "day.csv")) == DAY_S / 15.0
