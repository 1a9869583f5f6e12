"""Points: their keys, their order and their batches."""

import copy
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import sim_core
from experiments.planning.plan import Point, expand, make_plan, pack
from experiments.planning.spec import load_spec, spec_from_dict
from experiments.store.identity import sources_digest
from sim_core.errors import SpecError
from tests.waiting import guard_s

SMALL = {
    "name": "small",
    "profile": "production",
    "traffic": {"generator": "diurnal", "scale_peak_to_replicas": 10, "train": {"duration": "6h"}},
    "duration": "1h",
    "seeds": {"count": 2},
    "policies": [{"policy": "static", "replicas": [3, 4]}, {"policy": "hpa", "target_cpu_utilization_pct": 60}],
}


def with_changes(**changes: object) -> list[Point]:
    data = copy.deepcopy(SMALL)
    for path, value in changes.items():
        node = data
        *parents, last = path.split("__")
        for name in parents:
            node = node[name]
        node[last] = value
    return expand(spec_from_dict(data))


def keys(points: list[Point]) -> set[str]:
    return {point.key for point in points}


def test_points_are_the_product_in_the_order_written():
    points = with_changes(parameters={"database.max_connections": [400, 500]})
    found = [(p.policy, dict(p.settings), dict(p.overrides), p.seed) for p in points]
    policies = [("static", {"replicas": 3}), ("static", {"replicas": 4}), ("hpa", {"target_cpu_utilization_pct": 60})]
    expected = [
        (policy, chosen, {"database.max_connections": connections}, seed)
        for (policy, chosen), connections, seed in itertools.product(policies, (400, 500), (0, 1))
    ]
    assert found == expected
    assert points[0].label == "static replicas=3 database.max_connections=400"


def test_every_input_decides_the_key_and_its_spelling_does_not(tmp_path):
    base = keys(with_changes())
    assert len(base) == 6
    same = with_changes(duration=3600, traffic__train={"start": "0s", "duration": "360m"}, name="other")
    assert keys(same) == base
    for change in (
        {"traffic__seed": 1},
        {"traffic__scale_peak_to_replicas": 11},
        {"traffic__train": {"start": "1h", "duration": "5h"}},
        {"duration": "2h"},
        {"seeds": {"first": 2, "count": 2}},
        {"profile": "development"},
        {"parameters": {"database.max_connections": 450}},
        {"policies": [{"policy": "static", "replicas": 2}]},
        {"engine": "requests"},
    ):
        assert keys(with_changes(**change)).isdisjoint(base), change


def test_the_engine_decides_what_a_configuration_is():
    """Else means over seeds could mix what both engines found; the row says which one it was."""
    fluid, requests = (with_changes(engine=engine) for engine in ("fluid", "requests"))
    assert {p.configuration_key for p in fluid}.isdisjoint(p.configuration_key for p in requests)
    assert {p.row()["engine"] for p in fluid} == {"fluid"} and {p.row()["engine"] for p in requests} == {"requests"}
    assert keys(with_changes()) == keys(fluid)


def test_a_profile_file_with_the_same_content_has_the_same_points(tmp_path):
    bundled = Path(sim_core.__file__).parent / "profiles" / "production.yaml"
    copied = tmp_path / "mine.yaml"
    shutil.copy(bundled, copied)
    assert keys(with_changes(profile=str(copied))) == keys(with_changes())
    copied.write_text(bundled.read_text().replace("workers: 16", "workers: 17"))
    assert keys(with_changes(profile=str(copied))).isdisjoint(keys(with_changes()))


def test_an_override_to_the_value_that_is_there_is_the_same_point():
    assert keys(with_changes(parameters={"database.max_connections": 500})) == keys(with_changes())


def test_keys_are_the_same_in_every_process(tmp_path):
    """The hash seed of Python must not reach a key, or nothing would ever resume."""
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    script = f"from experiments.planning.plan import make_plan; from experiments.planning.spec import load_spec\n" \
             f"plan = make_plan(load_spec({str(file)!r})); print(plan.sweep_id, *plan.keys)"  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=guard_s()
    )
    plan = make_plan(load_spec(file))
    assert done.stdout.split() == [plan.sweep_id, *plan.keys], done.stderr


def test_a_configuration_is_what_the_seeds_share():
    points = with_changes()
    assert len({point.configuration_key for point in points}) == 3
    assert points[0].configuration_key == points[1].configuration_key
    assert points[0].key != points[1].key


def test_an_edited_source_file_makes_another_version(tmp_path):
    package = tmp_path / "sim_core"
    shutil.copytree(Path(sim_core.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert sources_digest(package) == sources_digest(Path(sim_core.__file__).parent)
    (package / "dataplane" / "queueing.py").open("a").write("# edited\n")
    assert sources_digest(package) != sources_digest(Path(sim_core.__file__).parent)


def test_equal_points_are_listed_once():
    policies = [{"policy": "static", "replicas": [3, 4]}, {"policy": "static", "replicas": 4}]
    assert len(with_changes(policies=policies)) == 4


def test_finished_points_are_not_planned_again():
    plan = make_plan(spec_from_dict(SMALL))
    finished = set(plan.keys[:4])
    assert [point.key for point in plan.pending(finished)] == plan.keys[4:]
    assert plan.batches(set(plan.keys)) == []
    assert plan.sweep_id.startswith("small-")
    assert plan.sweep_id == make_plan(spec_from_dict(SMALL)).sweep_id


def test_all_points_get_the_load_of_the_profile_without_overrides():
    """Were the load scaled to each variant, a sweep over pod size would compare nothing."""
    plan = make_plan(
        spec_from_dict(SMALL | {"parameters": {"services.api.container.cpu_seconds_per_request": [0.02, 0.03]}})
    )
    assert len({point.trace_digest for point in plan.points}) == 1
    assert plan.trace.peak_per_s == pytest.approx(0.7 * 10 * 1.0 / 0.025)


def test_windows_must_lie_in_the_trace(tmp_path):
    trace = tmp_path / "short.csv"
    trace.write_text("t_seconds,requests_per_second\n" + "".join(f"{60 * i},{10 + i}\n" for i in range(60)))
    traffic = {"trace": str(trace), "train": {"duration": "2h"}, "evaluate": {"start": "2h", "duration": "1h"}}
    with pytest.raises(SpecError) as caught:
        expand(spec_from_dict(SMALL | {"traffic": traffic}))
    assert caught.value.problems == [
        "traffic.train: must end within the trace, which lasts 3600 s (ends at 7200 s)",
        "traffic.evaluate: must end within the trace, which lasts 3600 s (ends at 10800 s)",
    ]
    whole = expand(spec_from_dict({**SMALL, "traffic": {"trace": str(trace)}, "duration": None}))
    assert {point.duration_s for point in whole} == {3600.0}


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    lanes=st.integers(1, 100),
    workers=st.integers(1, 16),
)
def test_batches_hold_every_point_once_fit_and_keep_the_actors_busy(counts, lanes, workers):
    points = [
        Point("p", f"profile-{group}", (), "t", "static", (), seed, 0.0, 60.0)
        for group, count in enumerate(counts)
        for seed in range(count)
    ]
    batches = pack(points, lanes, workers)
    assert [point for batch in batches for point in batch] == points
    assert all(1 <= len(batch) <= lanes for batch in batches)
    assert all(len({point.profile_digest for point in batch}) == 1 for batch in batches)
    assert len(batches) >= min(workers, len(points) if len(counts) == 1 else len(counts))
    for group in range(len(counts)):
        sizes = [len(batch) for batch in batches if batch[0].profile_digest == f"profile-{group}"]
        assert max(sizes) - min(sizes) <= 1


def test_profiles_of_equal_shape_share_a_batch_and_others_do_not():
    plan = make_plan(spec_from_dict(SMALL | {"parameters": {"database.max_connections": [400, 500]}}))
    assert [len(batch) for batch in plan.batches()] == [12]
    assert [len(batch) for batch in plan.batches(workers=2)] == [6, 6]
    other = make_plan(spec_from_dict(SMALL | {"parameters": {"tick_seconds": [1.0, 0.5]}}))
    assert [len(batch) for batch in other.batches()] == [6, 6]


def test_a_batch_holds_points_of_one_engine():
    points = [Point("p", "p", (), "t", "static", (), seed, 0.0, 60.0, engine=engine)
              for seed in range(3) for engine in ("fluid", "requests")]  # fmt: skip
    batches = pack(points)
    assert [len({point.engine for point in batch}) for batch in batches] == [1, 1]
    assert sorted(point.key for batch in batches for point in batch) == sorted(point.key for point in points)
