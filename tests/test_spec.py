"""Sweep specifications: what they mean, and what is said about those that are wrong."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.planning.spec import bundled_specs, load_spec, shrink_windows, spec_from_dict
from experiments.planning.values import combinations, values_of
from sim_core.errors import SpecError
from sim_core.profile import load_profile

DAY_S = 86_400.0

SOUND = {
    "name": "small",
    "profile": "production",
    "traffic": {
        "generator": "diurnal",
        "scale_peak_to_replicas": 10,
        "train": {"start": "0d", "duration": "2d"},
        "evaluate": {"start": "2d", "duration": "1d"},
    },
    "duration": "24h",
    "seeds": {"first": 3, "count": 2},
    "policies": [
        {"policy": "static", "replicas": [8, 12]},
        {"policy": "hpa", "target_cpu_utilization_pct": {"from": 50, "to": 70, "step": 10}},
    ],
}


def changed(path: str, value: object) -> dict:
    """SOUND with the value at a dotted path."""
    data = copy.deepcopy(SOUND)
    node = data
    *parents, last = path.split(".")
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
    node[last] = value
    return data


def problems(data: dict) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec_from_dict(data, "test.yaml")
    return caught.value.problems


def test_bundled_specs_are_sound_and_the_demo_asks_what_its_comment_says():
    assert bundled_specs() == ["capacity", "demo"]
    demo = load_spec("demo")
    assert len(demo.settings()) == 5 + 6 * 3
    assert demo.traffic.evaluate.start == 7 * DAY_S
    assert demo.train.algorithm == "ppo"
    assert {"agent", "general", "rule", "hpa-tuned", "clairvoyant"} <= set(demo.evaluation.policies)
    assert demo.limits(load_profile("production")) == {"slo_attainment": 0.99}
    assert load_spec("capacity").train is None
    assert load_spec("capacity").evaluation is None


def test_the_engine_is_fluid_unless_the_specification_names_the_other_one():
    assert spec_from_dict(SOUND).engine == "fluid"
    assert spec_from_dict(changed("engine", "requests")).engine == "requests"
    expected = "engine: must be one of fluid, requests; did you mean 'requests'? (got 'request')"
    assert problems(changed("engine", "request")) == [expected]
    assert problems(changed("engine", 7)) == ["engine: must be text (got 7)"]


def test_settings_are_the_product_in_the_order_written():
    data = changed(
        "policies",
        [
            {
                "policy": "hpa",
                "target_cpu_utilization_pct": [70, 50],
                "scale_down_stabilization_window_seconds": {"from": 0, "to": 300, "step": 300},
            },
            {"policy": "static", "replicas": 4},
        ],
    )
    found = [(policy, tuple(dict(settings).values())) for policy, settings in spec_from_dict(data).settings()]
    assert found == [("hpa", (70, 0)), ("hpa", (70, 300)), ("hpa", (50, 0)), ("hpa", (50, 300)), ("static", (4,))]


def test_ranges_end_where_they_are_written_to():
    """In binary floating point 0.1 + 2 * 0.1 is not 0.3; a range written in decimals is counted in decimals."""
    assert values_of({"from": 0.1, "to": 0.3, "step": 0.1}) == (0.1, 0.2, 0.3)
    assert values_of({"from": 40, "to": 90, "step": 20}) == (40, 60, 80)
    assert all(isinstance(value, int) for value in values_of({"from": 40, "to": 90, "step": 20}))
    assert values_of({"from": 1, "to": 1, "step": 5}) == (1,)
    assert values_of(7) == (7,)


@given(st.integers(-1000, 1000), st.integers(1, 50), st.integers(0, 100))
def test_a_range_has_even_steps_and_both_ends(first, step, count):
    values = values_of({"from": first / 100, "to": (first + step * count) / 100, "step": step / 100})
    assert values == tuple((first + step * i) / 100 for i in range(count + 1))


def test_no_parameters_is_one_combination():
    assert combinations({}) == [()]
    assert combinations({"a": [1, 2], "b": [3]}) == [(("a", 1), ("b", 3)), (("a", 2), ("b", 3))]


def test_plain_data_goes_there_and_back():
    spec = spec_from_dict(SOUND)
    assert spec_from_dict(spec.to_dict()) == spec
    assert spec.to_dict()["duration"] == DAY_S
    assert spec_from_dict(load_spec("demo").to_dict()) == load_spec("demo")


def test_paths_are_relative_to_the_specification(tmp_path, monkeypatch):
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "load.csv").write_text("t_seconds,requests_per_second\n0,1\n60,2\n")
    data = changed("traffic", {"trace": "load.csv"})
    file = tmp_path / "specs" / "mine.yaml"
    file.write_text(yaml.safe_dump(data | {"duration": "2m"}))
    monkeypatch.chdir(tmp_path)
    assert load_spec("specs/mine.yaml").traffic.trace == str(tmp_path / "specs" / "load.csv")


def test_all_problems_at_once_with_place_rule_value_and_nearest():
    data = copy.deepcopy(SOUND)
    data["polices"] = []
    data["profile"] = "producton"
    data["traffic"]["evaluate"] = {"start": "36h", "duration": "1d"}
    data["seeds"]["count"] = 0
    data["policies"] = [
        {"policy": "hpaa"},
        {"policy": "static", "replica": 3},
        {"policy": "static", "replicas": {"from": 9, "to": 3, "step": 1}},
    ]
    data["objective"] = {"minimize": "cost_us", "subject_to": {"latency_p99_s": "slo"}}
    found = "\n".join(problems(data))
    for expected in (
        "polices: unknown key; did you mean 'policies'?",
        "did you mean 'production'? (got 'producton')",
        "traffic.evaluate: must not overlap with traffic.train (0 s to 172800 s): it is held out",
        "seeds.count: must be at least 1 (got 0)",
        "policies.0.policy: must be one of static, hpa; did you mean 'hpa'? (got 'hpaa')",
        "policies.1.replica: unknown setting of static; did you mean 'replicas'? (got 3)",
        "policies.1.replicas: required setting is missing",
        "policies.2.replicas: a range needs step > 0 and to >= from",
        "objective.minimize: unknown indicator; did you mean 'cost_usd'? (got 'cost_us')",
        "objective.subject_to.latency_p99_s: must be a number; 'slo' is for slo_attainment only (got 'slo')",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("duration", "3d", "duration: must be at most traffic.train.duration 172800 s"),
        ("duration", "a day", "duration: "),
        ("duration", -5, "duration: must be greater than 0 (got -5"),
        ("traffic.trace", "nowhere.csv", "traffic: needs one of trace, generator and prometheus"),
        ("traffic.generator", None, "traffic: needs one of trace, generator and prometheus (got 'none')"),
        ("traffic.generator", "diurnall", "did you mean 'diurnal'"),
        ("traffic.scale_peak_to_replicas", 0, "traffic.scale_peak_to_replicas: must be at least 1 (got 0)"),
        ("policies", [], "policies: must have at least 1 items"),
        ("policies.0.replicas", [4, 4], "policies.0.replicas: a list must not repeat a value"),
        ("policies.0.replicas", [], "policies.0.replicas: a list must have 1 to 1000 values"),
        ("policies.0.replicas", [[1]], "policies.0.replicas: a list must hold plain values, not a list of 1"),
        ("policies.0.replicas", "ten", "policies.0.replicas: "),
        ("policies.0.replicas", 0, "policies.0.replicas: "),
        ("policies.0.replicas", 101, "policies.0.replicas: must be at most replicas.max 100 of the profile"),
        ("policies.1.target_cpu_utilization_pct", {"from": 1, "to": 2}, "a range needs the keys from, to and step"),
        ("policies.1.target_cpu_utilization_pct", {"from": 1, "to": float("nan"), "step": 1}, "must be finite numbers"),
        ("policies.1.target_cpu_utilization_pct", {"from": 0, "to": 2000, "step": 1}, "at most 1000 values"),
        ("policies.1.target_cpu_utilization_pct", 0, "(got 'target_cpu_utilization_pct=0')"),
        ("policies.1.target_cpu_utilization_pct", 60.5, "pct: must be a whole number (got 60.5)"),
        ("policies.1.tolerance", "0.1", "policies.1.tolerance: must be a number (got '0.1')"),
        ("policies.1.target_cpu_utilisation_pct", 50, "did you mean 'target_cpu_utilization_pct'?"),
        ("parameters", {"services.api.replica.max": 5}, "unknown key; did you mean 'replicas'?"),
        ("parameters", {"services.apy.replicas.max": 5}, "did you mean 'api'?"),
        ("parameters", {"services.api.replicas.max": [50, 1]}, "services.api.replicas.max=1"),
        ("parameters", {"slo.objective": {"from": 0}}, "parameters.slo.objective: a range needs the keys"),
        ("scenarios", {"services.api.replica.max": 5}, "unknown key; did you mean 'replicas'?"),
        ("scenarios", {"services.api.replicas.max": [50, 1]}, "services.api.replicas.max=1"),
        ("scenarios", {"slo.objective": {"from": 0}}, "scenarios.slo.objective: a range needs the keys"),
        ("scenarios", {"cache.keys": []}, "scenarios.cache.keys: a list must have 1 to 1000 values"),
        ("scenarios", [], "scenarios: must be a mapping of keys (got a list of 0)"),
        ("scenarios", {None: [1]}, "scenarios"),
        ("scenarios", {"tick_seconds": [1, 1.0]}, "scenarios: must differ; the same as tick_seconds=1"),
        ("seeds.count", 10_000, "policies: policies x parameters x seeds must be at most 100000 points"),
        ("objective.minimize", "slo_attainment", "must be an indicator of which less is better"),
        ("objective.subject_to", {"slo_attainmen": 0.9}, "unknown indicator; did you mean 'slo_attainment'?"),
        ("objective.subject_to", {"slo_attainment": True}, "must be a finite number, or 'slo' (got true)"),
        ("train", {"algorithm": "pp", "steps": 5}, "train.algorithm: must be one of 'ppo' (got 'pp')"),
        ("train", {"steps": 0}, "train.steps: must be at least 1 (got 0)"),
        ("evaluation", {"policies": ["clairvoyan"]}, "did you mean 'clairvoyant'?"),
        ("evaluation", {"policies": ["agent"]}, "evaluation.policies.0: needs the section train (got 'agent')"),
        ("name", "Not A Label", "name: must match"),
    ],
)
def test_one_wrong_thing_is_named(path, value, expected):
    data = changed(path, value)
    if path == "seeds.count":
        data["parameters"] = {"services.api.replicas.max": {"from": 90, "to": 100, "step": 1}}
    assert expected in "\n".join(problems(data))


def test_a_path_is_either_chosen_or_suffered():
    """The same path in both sections, in either spelling, or a part of it, has no one value."""
    startup = "services.api.lifecycle.startup_seconds"
    data = changed("parameters", {startup: [10, 20]}) | {"scenarios": {startup: [20, 60]}}
    (found,) = problems(data)
    assert found.startswith(f"scenarios.{startup}: stands under parameters too; a value is either chosen")
    for other in ("services.0.lifecycle.startup_seconds", "services.api.lifecycle"):
        found = problems(data | {"scenarios": {other: 20}})
        assert "overlaps with the override" in "\n".join(found)


def test_scenarios_multiply_the_points_and_stay_within_the_limit():
    """No combination is made to count them: three long ranges would fill the memory."""
    paths = ("max_connections", "read_seconds", "write_seconds")
    numbers = {f"database.{path}": {"from": 501, "to": 1500, "step": 1} for path in paths}
    (found,) = problems(changed("scenarios", numbers))
    assert found.startswith("policies: policies x parameters x scenarios x seeds must be at most 100000 points")
    assert "(got 10000000000)" in found


def test_sections_need_their_part_of_the_traffic():
    data = changed("traffic", {"generator": "diurnal"})
    data |= {
        "train": {"steps": 10},
        "evaluation": {"policies": ["hpa-tuned", "models:/autoscaler-production@champion"]},
    }
    found = problems(data)
    assert "traffic.train: required by the section train (got null)" in found
    assert "traffic.evaluate: required by the section evaluation (got null)" in found
    assert "evaluation.policies.0: needs traffic.train to be tuned on (got 'hpa-tuned')" in found
    assert len(found) == 3


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("name: a\nname: b\n")
    with pytest.raises(SpecError, match="name: key stands twice, on lines 1 and 2"):
        load_spec(file)


def test_unknown_names_and_files_say_what_there_is(tmp_path):
    with pytest.raises(SpecError, match=r"unknown specification \(known: capacity, demo, .*did you mean 'demo'"):
        load_spec("dem")
    with pytest.raises(SpecError, match="no such file"):
        load_spec(tmp_path / "no.yaml")
    with pytest.raises(SpecError, match="must be a mapping of keys"):
        spec_from_dict([])


def test_every_bundled_spec_is_where_the_package_ships_it():
    import experiments

    assert (Path(experiments.__file__).parent / "specs" / "demo.yaml").is_file()


def test_windows_shrink_in_proportion_to_shorter_traffic():
    """A tour written for eight days goes on a trace of one: seven eighths to learn from, one eighth held out."""
    data = load_spec("demo").to_dict()
    shrunk = shrink_windows(data, 86_400.0)
    assert shrunk["traffic"]["train"] == {"start": 0, "duration": 75_600}
    assert shrunk["traffic"]["evaluate"] == {"start": 75_600, "duration": 10_800}
    assert shrunk["duration"] == 75_600
    assert shrink_windows(data, 8 * 86_400.0) == data
