"""Comparing sweeps: only what met the same is ranked; ties and idle parameters are named; scenarios judge decisions."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from experiments.analysis.comparability import differences, groups_of
from experiments.analysis.comparison import best, best_by_scenario, compare, indicators_of
from experiments.analysis.ties import without_effect
from experiments.compute.actors import run_batch
from experiments.planning.plan import Plan, make_plan
from experiments.planning.spec import load_spec, spec_from_dict
from experiments.report import comparison_text, report_data, write_report
from experiments.report.data import at_worst, swept
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from flows.commands.compare import compare_sweeps
from flows.terminal.output import plain
from flows.terminal.tables import show_comparison
from sim_core.errors import InputError

STARTUP = "services.api.lifecycle.startup_seconds"
CONNECTIONS = "database.max_connections"


def spec(name: str, **changes: object) -> dict:
    data = {
        "name": name,
        "profile": "production",
        "traffic": {"generator": "diurnal", "seed": 0, "scale_peak_to_replicas": 8},
        "duration": "1h",
        "seeds": {"count": 2},
        "policies": [{"policy": "static", "replicas": [2, 4, 8]}],
    }
    return data | changes


def simulated(plan: Plan) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(run_batch(batch, plan.trace, plan.profiles)) for batch in plan.batches()])


def play(state: StateDir, data: dict) -> Plan:
    """The sweep, simulated and stored as the flow does it, without its platforms."""
    plan = make_plan(spec_from_dict(data))
    store = ResultStore(state.results)
    identities = [point.identity() for point in plan.points]
    store.register(plan.sweep_id, plan.keys, plan.spec.to_dict(), plan.basis(), identities)
    for batch in plan.batches(store.finished_keys()):
        store.append(run_batch(batch, plan.trace, plan.profiles))
    return plan


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.open(tmp_path / "state")


def compared(state: StateDir, *sweeps: str, baseline: str | None = None) -> dict:
    """The document of `devops-sim compare`, as JSON holds it."""
    return json.loads(json.dumps(plain(compare_sweeps(sweeps, baseline, state.root)), allow_nan=False))


# --- groups


def test_sweeps_that_met_the_same_are_one_group_with_one_best(state):
    """Other decisions on the same environment under the same traffic are rivals, in whichever sweep they stand."""
    first = play(state, spec("first"))
    second = play(state, spec("second", policies=[{"policy": "static", "replicas": [7, 8]}]))
    document = compared(state, "first", "second")
    (group,) = document["groups"]
    assert group["sweeps"] == document["sweeps"] == [first.sweep_id, second.sweep_id]
    assert document["differences"] == [] and document["no_best_because"] is None
    assert document["best"]["label"] == "static replicas=7"
    asked = {row["label"]: row["sweeps"] for row in document["configurations"]}
    assert asked["static replicas=2"] == [first.sweep_id]
    assert asked["static replicas=8"] == [first.sweep_id, second.sweep_id]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"traffic": {"generator": "diurnal", "seed": 1, "scale_peak_to_replicas": 8}}, "traffic"),
        ({"traffic": {"generator": "diurnal", "seed": 0, "scale_peak_to_replicas": 9}}, "traffic"),
        ({"duration": "30m"}, "window"),
        ({"objective": {"subject_to": {"slo_attainment": 0.9}}}, "objective"),
        ({"objective": {"minimize": "scale_events"}}, "objective"),
        ({"scenarios": {STARTUP: [20, 60]}}, "scenarios"),
    ],
)
def test_no_best_is_named_over_sweeps_that_did_not_meet_the_same(state, changes, named):
    """Each group has its own best; over all there is none, and the document says why and what differs."""
    play(state, spec("one"))
    play(state, spec("two", **changes))
    document = compared(state, "one", "two")
    assert [group["best"]["label"] for group in document["groups"]] == ["static replicas=8"] * 2
    assert document["best"] is None and document["pareto_front"] is None
    assert "2 groups that did not meet the same" in document["no_best_because"]
    assert named in [line.split(":")[0] for line in document["differences"]]
    assert {row["group"] for row in document["configurations"]} == {1, 2}


def test_what_two_engines_found_is_not_ranked_together(state):
    """By what sweeps say of themselves; one that names no engine was played before there were two."""
    store = ResultStore(state.results)
    ids = []
    for name, engine in (("one", "fluid"), ("two", "requests"), ("old", "fluid")):
        plan = make_plan(spec_from_dict(spec(name, engine=engine)))
        basis = plan.basis() if name != "old" else {k: v for k, v in plan.basis().items() if k != "engine"}
        store.register(plan.sweep_id, plan.keys, plan.spec.to_dict(), basis)
        ids.append(plan.sweep_id)
    groups = groups_of([store.manifest(sweep_id) for sweep_id in ids])
    assert [group.sweeps for group in groups] == [(ids[0], ids[2]), (ids[1],)]
    assert differences(groups) == ["engine: group 1 fluid; group 2 requests"]


def test_another_profile_is_another_group_and_its_paths_are_named(state, tmp_path):
    import yaml

    from sim_core.profile import load_profile

    other = tmp_path / "other.yaml"
    changed = load_profile("production").with_overrides({"slo.objective": 0.95, "services.api.replicas.min": 3})
    other.write_text(yaml.safe_dump(changed.to_dict()))
    play(state, spec("one"))
    play(state, spec("two", profile=str(other)))
    differences = compared(state, "one", "two")["differences"]
    assert "SLO: group 1 0.99 within 0.3 s; group 2 0.95 within 0.3 s" in differences
    assert "profile services.0.replicas.min: group 1 2; group 2 3" in differences
    other.unlink()  # what was compared is kept with the results, not read again
    assert compared(state, "one", "two")["differences"] == differences


def test_differences_to_a_baseline_stay_within_its_group(state):
    """A group that does not have the baseline gets no differences; one that has it is compared with its own."""
    play(state, spec("one"))
    play(state, spec("two", duration="30m", policies=[{"policy": "static", "replicas": [8, 9]}]))
    play(state, spec("three", duration="20m", policies=[{"policy": "static", "replicas": [3]}]))
    document = compared(state, "one", "two", "three", baseline="static replicas=8")
    has_differences = {(row["group"], row["label"]): "differences" in row for row in document["configurations"]}
    assert all(has_differences[1, f"static replicas={n}"] for n in (2, 4, 8))
    assert all(has_differences[2, f"static replicas={n}"] for n in (8, 9))
    assert not has_differences[3, "static replicas=3"]
    own = [row for row in document["configurations"] if row["label"] == "static replicas=8"]
    assert [row["differences"]["cost_usd"]["mean"] for row in own] == [0.0, 0.0]
    with pytest.raises(InputError, match="no configuration 'static replicas=80'; did you mean 'static replicas=8'"):
        compare_sweeps(["one", "two"], "static replicas=80", state.root)


def test_a_sweep_of_an_earlier_version_can_be_read_and_is_compared_with_no_other(state):
    """Its manifest holds neither traffic nor profile, its rows no scenario: it stands alone, and that is said."""
    plan = play(state, spec("new"))
    store = ResultStore(state.results)
    earlier = plan.spec.to_dict() | {"name": "earlier"}
    del earlier["scenarios"]
    manifest = {"sweep_id": "earlier-0123456789", "spec": earlier, "keys": plan.keys}
    (store.manifests / "earlier-0123456789.json").write_text(json.dumps(manifest))
    for file in store.points.glob("*.parquet"):
        pd.read_parquet(file).drop(columns=["scenario", "trace_digest", "profile_digest"]).to_parquet(file)
    alone = compared(state, "earlier")
    assert alone["best"]["label"] == "static replicas=8"
    document = compared(state, "earlier", "new")
    assert len(document["groups"]) == 2 and document["best"] is None
    assert any(line.startswith("traffic: group 1 not kept: ") for line in document["differences"])
    assert report_data("earlier-0123456789", state).remarks


def test_a_point_that_two_sweeps_share_bears_the_name_that_each_gives_it(state):
    """A parameter at its present value is the same simulation as no parameter; in the sweep over it, it has a value."""
    present = 500
    play(state, spec("plain", policies=[{"policy": "static", "replicas": 8}]))
    swept = play(
        state, spec("swept", policies=[{"policy": "static", "replicas": 8}], parameters={CONNECTIONS: [present]})
    )
    assert len(ResultStore(state.results).finished_keys()) == 2  # simulated once
    (row,) = compared(state, "swept")["configurations"]
    assert row["parameters"] == {CONNECTIONS: present}
    assert row["label"] == swept.points[0].label
    assert compared(state, "plain")["configurations"][0]["parameters"] == {}


def test_what_is_chosen_stands_first_and_with_all_its_scenarios(state, capsys):
    """However short the list and however dear the choice, its rows open the table."""
    play(state, spec("short", scenarios={STARTUP: [20, 60]}))
    show_comparison(compare_sweeps(["short"], None, state.root), limit=3)
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if re.match(r"[> ][* ]  replicas=", line)]
    assert [re.findall(r"=(\d+)", row)[:2] for row in rows] == [["8", "20"], ["8", "60"], ["2", "20"], ["2", "60"]]
    assert [row[0] for row in rows] == [">", ">", " ", " "]
    assert "2 more with --json" in printed


# --- ties, and parameters without effect


def test_ties_and_parameters_without_effect_are_named_everywhere(state, tmp_path, capsys):
    """8 pods open 32 connections: whether 200 or 400 may be open changes no digit of any result."""
    play(state, spec("idle", parameters={CONNECTIONS: [200, 100, 400]}))
    document = compared(state, "idle")
    assert document["best"]["label"] == f"static replicas=8 {CONNECTIONS}=200"
    assert document["best"]["ties"] == [f"static replicas=8 {CONNECTIONS}={value}" for value in (100, 400)]
    assert "ties with 2 others and is named first" in document["best"]["reason"]
    (group,) = document["groups"]
    assert [len(tied) for tied in group["ties"]] == [3, 3, 3]
    (found,) = group["without_effect"]
    assert found["text"] == f"{CONNECTIONS}: no effect between 100 and 400"
    assert found["values"] == [100, 200, 400]
    show_comparison(compare_sweeps(["idle"], None, state.root))
    assert f"Note: {found['text']}" in (printed := capsys.readouterr().out)
    assert f"ties with it: static replicas=8 {CONNECTIONS}=400" in printed
    page = write_report(report_data(document["sweeps"][0], state), tmp_path / "report.html").read_text()
    assert f"{found['text']}." in page
    assert f"Its results are those of static replicas=8 {CONNECTIONS}=100; " in page


def invented(results: dict[tuple, list[float]], *names: str) -> pd.DataFrame:
    """Points with these values of the parameters and, a number a seed, their cost."""
    rows = []
    for values, costs in results.items():
        parameters = json.dumps(dict(zip(names, values, strict=True)))
        common = {"configuration_key": parameters, "policy": "hpa", "settings": "{}", "parameters": parameters}
        rows += [{**common, "seed": seed, "cost_usd": cost} for seed, cost in enumerate(costs)]
    return pd.DataFrame(rows)


def test_one_difference_anywhere_is_an_effect():
    """a matters between 2 and 3, and only where b is 1; b matters nowhere else, but there."""
    same = [1.0, 2.0]
    points = invented({(a, b): same for a in (1, 2, 3) for b in (0, 1)} | {(3, 1): [1.0, 2.5]}, "a", "b")
    assert [str(found) for found in without_effect(points, ["cost_usd"])] == ["a: no effect between 1 and 2"]
    words = invented({("x", 1): same, ("y", 1): same}, "mode", "b")
    assert [str(found) for found in without_effect(words, ["cost_usd"])] == ["mode: no effect among x, y"]


def test_a_tie_needs_the_same_result_in_every_seed():
    """Equal means over other seeds, or over seeds in another order, are no tie."""
    table = compare(invented({(1,): [1.0, 2.0], (2,): [2.0, 1.0], (3,): [1.0, 2.0], (4,): [1.0]}, "a"))
    first, second, _, fourth = table["configuration_key"]
    assert table["same_as"].tolist() == [first, second, first, fourth]


def test_of_equal_costs_the_larger_margin_wins_then_the_first():
    """A parameter may cost nothing and help: the cheapest is then the one that helps most."""
    points = invented({(1,): [5.0], (2,): [5.0], (3,): [5.0]}, "a").assign(slo_attainment=[0.991, 0.999, 0.999])
    chosen = best(compare(points), "cost_usd", {"slo_attainment": 0.99})
    assert chosen.label == "hpa a=2"
    assert chosen.ties == ("hpa a=3",)


# --- scenarios


def test_every_configuration_is_played_in_every_scenario_and_the_worst_counts(state):
    """The decision is one configuration; its seeds stay within a scenario; what a slow start breaks is not chosen."""
    policies = [{"policy": "hpa", "target_cpu_utilization_pct": [60, 95]}]
    plan = play(state, spec("trial", policies=policies, duration="6h", scenarios={STARTUP: [5, 120]}))
    assert len(plan.points) == 2 * 2 * 2
    assert len({point.configuration_key for point in plan.points}) == 2
    assert [dict(point.scenario)[STARTUP] for point in plan.points] == [5, 5, 120, 120] * 2
    document = compared(state, "trial")
    rows = document["configurations"]
    assert [(row["label"], row["scenario"]) for row in rows] == [
        (f"hpa target_cpu_utilization_pct={target}", {STARTUP: startup}) for target in (60, 95) for startup in (5, 120)
    ]
    assert {row["seeds"] for row in rows} == {2}
    by_scenario = document["groups"][0]["best_by_scenario"]
    assert [entry["scenario"] for entry in by_scenario] == [{STARTUP: 5}, {STARTUP: 120}]
    assert "in each of 2 scenarios" in document["best"]["reason"]


def in_scenarios(results: dict[tuple[str, str], tuple[float, float]]) -> pd.DataFrame:
    """Points of one seed: cost and attainment of each decision in each scenario."""
    return pd.DataFrame(
        [
            {"configuration_key": name, "policy": name, "settings": "{}", "parameters": "{}", "seed": 0,
             "scenario": json.dumps({"start": scenario}), "cost_usd": cost, "slo_attainment": attainment}
            for (name, scenario), (cost, attainment) in results.items()
        ]
    )  # fmt: skip


def test_the_best_keeps_the_constraints_in_every_scenario_at_the_least_cost_of_its_worst():
    """`risky` is cheapest where starts are fast and fails where they are slow; of the others `even` has the cheaper worst."""
    table = compare(
        in_scenarios(
            {
                ("risky", "fast"): (1.0, 0.999), ("risky", "slow"): (1.0, 0.98),
                ("uneven", "fast"): (2.0, 0.999), ("uneven", "slow"): (9.0, 0.999),
                ("even", "fast"): (5.0, 0.999), ("even", "slow"): (6.0, 0.995),
            }
        )
    )  # fmt: skip
    limits = {"slo_attainment": 0.99}
    chosen = best(table, "cost_usd", limits)
    assert (chosen.label, chosen.feasible) == ("even", True)
    assert chosen.reason == (
        "lowest cost_usd in its worst scenario of the 2 of 3 configurations that meet slo_attainment >= 0.99 "
        "in each of 2 scenarios"
    )
    alone = best_by_scenario(table, "cost_usd", limits)
    assert [(entry["scenario"]["start"], entry["label"]) for entry in alone] == [("fast", "risky"), ("slow", "even")]


def test_a_configuration_that_is_not_finished_in_every_scenario_is_not_the_best():
    table = compare(
        in_scenarios({("half", "fast"): (1.0, 0.999), ("whole", "fast"): (5.0, 0.999), ("whole", "slow"): (5.0, 0.999)})
    )
    assert best(table, "cost_usd", {"slo_attainment": 0.99}).label == "whole"
    assert best(table, "cost_usd", {}).label == "whole"


def test_differences_to_a_baseline_are_taken_in_the_same_scenario():
    points = in_scenarios(
        {("a", "fast"): (1.0, 1), ("a", "slow"): (5.0, 1), ("b", "fast"): (2.0, 1), ("b", "slow"): (9.0, 1)}
    )
    table = compare(points, baseline="a")
    assert table["cost_usd_diff"].tolist() == [0.0, 0.0, 1.0, 4.0]


def test_a_scenario_is_the_same_simulation_as_a_parameter_and_another_question(state):
    """Moving a path from parameters to scenarios simulates nothing again, and makes another sweep of it."""
    as_parameter = play(state, spec("move", parameters={STARTUP: [20, 60]}))
    as_scenario = make_plan(spec_from_dict(spec("move", scenarios={STARTUP: [20, 60]})))
    assert set(as_scenario.keys) == set(as_parameter.keys)
    assert as_scenario.pending(ResultStore(state.results).finished_keys()) == []
    assert as_scenario.sweep_id != as_parameter.sweep_id
    assert len({point.configuration_key for point in as_scenario.points}) == 3


def test_the_report_judges_a_configuration_by_its_worst_scenario(state, tmp_path):
    """Twelve times the start-up time leaves an HPA at 95 % behind; the page shows both scenarios and counts the worse."""
    policies = [{"policy": "hpa", "target_cpu_utilization_pct": [70, 95]}]
    plan = play(state, spec("trial", policies=policies, duration="12h", scenarios={STARTUP: [5, 120]}))
    data = report_data(plan.sweep_id, state)
    assert data.sweep["scenario"].tolist() == [f"{STARTUP}={value}" for value in (5, 120)] * 2
    by_label = data.sweep.groupby("configuration", sort=False)
    judged = at_worst(swept(data))
    assert [outcome.label for outcome in judged] == list(by_label.groups)
    assert [outcome.attainment.mean for outcome in judged] == by_label["slo_attainment"].min().tolist()
    assert [outcome.cost.mean for outcome in judged] == pytest.approx((2 * by_label["cost_usd"].max()).tolist())
    kept = sum(outcome.attainment.mean >= data.objective for outcome in judged)
    assert f"{kept} of 2 configurations keep the SLO" in comparison_text(data)
    page = write_report(data, tmp_path / "report.html").read_text()
    rows = re.findall(r'<th scope="row" data-key="([^"]*)"', page)
    chosen = next(outcome.label for outcome in judged if outcome.attainment.mean >= data.objective)
    assert rows[:2] == [chosen, chosen] and len(rows) == 4  # both scenarios of what to take, then the rest
    assert page.count(f"{STARTUP}=120</td>") == 2
    assert f"In the scenario {STARTUP}=120 alone: " in page
    unfinished = at_worst(swept(dataclasses.replace(data, sweep=data.sweep.iloc[:-1])))
    assert [outcome.measured for outcome in unfinished] == [True, False]  # what has not stood a scenario is not judged


def test_scenarios_written_in_another_order_are_the_same(state):
    """Two sweeps under the same scenarios are rivals, whatever the order of paths and values in their specifications."""
    cold = "services.api.lifecycle.cold_seconds"
    play(state, spec("one", scenarios={STARTUP: [10, 20], cold: [5, 30]}))
    others = [{"policy": "static", "replicas": [7]}]
    play(state, spec("two", policies=others, scenarios={cold: [30, 5], STARTUP: [20, 10]}))
    document = compared(state, "one", "two")
    assert len(document["groups"]) == 1
    assert document["best"]["label"] == "static replicas=7"
    assert "of the 2 of 4 configurations" in document["best"]["reason"]


def test_a_parameter_that_is_suffered_is_warned_of_and_still_played():
    """A start-up time is no decision: it may be swept as a parameter, but the specification says what it should be."""
    sound = spec_from_dict(spec("warned", parameters={STARTUP: [10, 20], CONNECTIONS: [400, 500]}))
    (warning,) = sound.warnings()
    assert warning.startswith(f"parameters.{STARTUP} is suffered rather than chosen; put it under scenarios")
    assert len(make_plan(sound).points) == 3 * 4 * 2
    assert spec_from_dict(spec("fine", scenarios={STARTUP: [10, 20]})).warnings() == []
    assert spec_from_dict(spec("fixed", parameters={STARTUP: 10})).warnings() == []  # one value is a premise
    assert all(load_spec(name).warnings() == [] for name in ("capacity", "demo"))


def test_paths_that_are_called_suffered_are_paths_of_a_profile():
    """A renamed field must not leave the list of what is suffered behind."""
    from experiments.planning.rules import SUFFERED, suffered
    from sim_core.profile import load_profile

    plain, graph = load_profile("production").to_dict(), load_profile("boutique").to_dict()
    for pattern in SUFFERED:
        node = graph if pattern.startswith("requests") or "endpoints" in pattern else plain
        for step in pattern.split("."):
            if step == "**":  # all that lies below what is there by its name, if it is null in this profile
                break
            node = node[0] if isinstance(node, list) else next(iter(node.values())) if step == "*" else node[step]
    assert suffered("services.0.queries.reads_per_call") and not suffered("services.api.replicas.max")


def test_capacity_asks_a_question_whose_answer_depends_on_what_is_decided_and_suffered():
    """Every parameter and scenario has an effect, the SLO is at stake, and the slow start costs more than the fast one."""
    data = load_spec("capacity").to_dict()
    plan = make_plan(spec_from_dict(data | {"seeds": {"count": 1}, "scenarios": {STARTUP: [10, 120]}}))
    points = simulated(plan)
    assert without_effect(points, indicators_of(points)) == []
    table, goal = compare(points), (plan.spec.objective.minimize, plan.spec.limits(plan.profile))
    chosen = best(table, *goal)
    assert chosen.feasible and not chosen.ties
    assert 0.05 < (table["slo_attainment"] >= 0.99).mean() < 0.5
    cost = table.set_index(["configuration_key", "scenario"])["cost_usd"]
    fast, slow = (entry["configuration_key"] for entry in best_by_scenario(table, *goal))
    scenarios = table["scenario"].unique()
    assert cost[fast, scenarios[0]] < 0.95 * cost[slow, scenarios[1]]
