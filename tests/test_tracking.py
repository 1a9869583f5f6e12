"""MLflow on a real SQLite file: what is written, that it is written once, and that its failure costs no result."""

import json
import logging
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from onnx import TensorProto, helper

from experiments.planning.plan import Plan, make_plan
from experiments.planning.spec import spec_from_dict
from experiments.store.links import first_page, runs_page
from experiments.store.state import StateDir
from experiments.tracking import CHALLENGER, CHAMPION, MlflowTracker, resolve_model
from experiments.training.job import Job, describe
from sim_core.errors import ModelError
from tests.waiting import guard_s

SMALL = {
    "name": "small",
    "profile": "production",
    "traffic": {"generator": "diurnal", "scale_peak_to_replicas": 10},
    "duration": "10m",
    "seeds": {"count": 3},
    "policies": [{"policy": "static", "replicas": [8, 12]}, {"policy": "hpa", "target_cpu_utilization_pct": 50}],
    "parameters": {"database.max_connections": [450, 500]},
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(spec_from_dict(SMALL))


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables, which take two seconds to create."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def state(tmp_path, monkeypatch, empty_database) -> StateDir:
    monkeypatch.chdir(tmp_path)  # MLflow's default artifact root would be here
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = StateDir.open(tmp_path / "state")
    shutil.copy(empty_database, opened.root / "mlflow.db")
    return opened


def points_of(plan: Plan) -> pd.DataFrame:
    """Rows as the result store gives them, with numbers that differ from point to point."""
    numbers = np.random.default_rng(0).uniform(1.0, 2.0, len(plan.points))
    rows = [
        point.row()
        | {
            "cost_usd": cost,
            "cost_pods_usd": cost - 0.5,
            "cost_fixed_usd": 0.5,
            "slo_attainment": 0.995,
            "mttr_s": math.nan,
        }
        for point, cost in zip(plan.points, numbers, strict=True)
    ]
    return pd.DataFrame(rows)


def runs_of(state: StateDir, kind: str) -> list:
    client = MlflowClient(state.mlflow_uri)
    experiment = client.get_experiment_by_name("production")
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'", max_results=1000)


def save_network(path: Path, n_observations: int = 3, n_actions: int = 2) -> Path:
    """A linear policy with weights 1, as an exporter would write it."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["observation", "weights"], ["logits"])],
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, [None, n_observations])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, n_actions])],
        [
            helper.make_tensor(
                "weights", TensorProto.FLOAT, [n_observations, n_actions], np.ones(n_observations * n_actions)
            )
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


# --- sweeps


def test_a_sweep_is_a_parent_run_and_a_child_run_a_configuration(state, plan):
    points = points_of(plan)
    parent_id = MlflowTracker.open(state, "production").log_sweep(plan, points)
    (parent,) = runs_of(state, "sweep")
    assert parent.info.run_id == parent_id
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["sweep_id"] == plan.sweep_id

    children = runs_of(state, "configuration")
    assert len(children) == 6
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent_id}
    child = next(run for run in children if run.info.run_name == "static 12 replicas / max_connections 450")
    decided = {"policy": "static", "replicas": "12", "database.max_connections": "450"}
    assert child.data.params == decided | {"seeds": "3", "engine": "fluid"}
    costs = points[points["configuration_key"] == child.data.tags["configuration_key"]]["cost_usd"]
    spread = math.exp(4.302653 * costs.std(ddof=1) / math.sqrt(3) / costs.mean())  # t(0.975, 2); a cost is positive
    assert child.data.metrics["cost_usd"] == pytest.approx(costs.mean())
    assert child.data.metrics["cost_usd/ci95_low"] == pytest.approx(costs.mean() / spread, rel=1e-5)
    assert child.data.metrics["cost_usd/ci95_high"] == pytest.approx(costs.mean() * spread, rel=1e-5)
    assert "mttr_s" not in child.data.metrics  # NaN: did not occur
    assert child.data.metrics["cost_pods_usd"] + child.data.metrics["cost_fixed_usd"] == pytest.approx(costs.mean())

    folder = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(state.artifacts)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "points.parquet"), points, check_dtype=False)
    assert spec_from_dict(yaml.safe_load((folder / "spec.yaml").read_text())) == plan.spec
    assert yaml.safe_load((folder / "profile.yaml").read_text()) == plan.profile.to_dict()
    assert not Path("mlruns").exists()


def test_a_configuration_has_a_child_run_in_each_scenario(state):
    """Seeds of different scenarios are never averaged; the runs of one decision share its key and differ in the scenario."""
    path = "services.api.lifecycle.startup_seconds"
    plan = make_plan(spec_from_dict({**SMALL, "scenarios": {path: [10, 60]}}))
    points = points_of(plan)
    tracker = MlflowTracker.open(state, "production")
    tracker.log_sweep(plan, points.iloc[:4])  # one scenario is complete, of the next one there is a seed
    assert len(runs_of(state, "configuration")) == 1
    for _ in range(2):
        MlflowTracker.open(state, "production").log_sweep(plan, points)
    children = runs_of(state, "configuration")
    assert len(children) == 12
    assert runs_of(state, "sweep")[0].data.params["configurations"] == "6"
    keys = [child.data.tags["configuration_key"] for child in children]
    assert sorted(set(map(keys.count, keys))) == [2]
    slow = [child for child in children if child.data.params[path] == "60"]
    assert len(slow) == 6 and {child.data.tags["scenario"] for child in slow} == {json.dumps({path: 60})}
    assert all(child.info.run_name.endswith(f" · {path}=60") for child in slow)
    of = (points["configuration_key"] == keys[0]) & (points["scenario"] == children[0].data.tags["scenario"])
    assert of.sum() == 3
    assert children[0].data.metrics["cost_usd"] == pytest.approx(points[of]["cost_usd"].mean())


def test_the_parent_of_a_sweep_shows_what_it_found_and_no_bookkeeping(state, plan):
    """The best configuration's settings and indicators, which pages show at once, and why it is the best."""
    points = points_of(plan)
    MlflowTracker.open(state, "production").log_sweep(plan, points)
    (parent,) = runs_of(state, "sweep")
    key = points.groupby("configuration_key")["cost_usd"].mean().idxmin()
    best = next(run for run in runs_of(state, "configuration") if run.data.tags["configuration_key"] == key)
    assert parent.data.metrics == best.data.metrics
    assert (
        parent.data.params.items() >= (best.data.params | {"best": best.info.run_name, "configurations": "6"}).items()
    )
    note = parent.data.tags["mlflow.note.content"]
    assert best.info.run_name in note and "lowest cost_usd of the 6 of 6 configurations" in note


def test_an_experiment_is_one_of_machine_learning(state):
    """MLflow opens an experiment without a kind on its page of GenAI traces."""
    MlflowTracker.open(state, "production").experiment_id()
    tags = MlflowClient(state.mlflow_uri).get_experiment_by_name("production").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_first_page_is_that_of_the_newest_sweep(state, plan):
    assert first_page("http://x", state) == "http://x/#/experiments?workflowType=machine_learning"
    tracker = MlflowTracker.open(state, "production")
    tracker.log_sweep(plan, points_of(plan))
    tracker.start("training", "later", "ppo", {})
    assert tracker.sweep_page(plan.sweep_id).endswith(f"&viewStateShareKey={plan.sweep_id}")
    assert first_page("http://x", state) == runs_page("http://x", tracker.experiment_id(), plan.sweep_id)


def test_what_is_written_while_results_come_in_is_not_written_again(state, plan):
    points = points_of(plan)
    tracker = MlflowTracker.open(state, "production")
    tracker.log_sweep(plan, points.iloc[:0])
    assert runs_of(state, "configuration") == []
    tracker.log_sweep(plan, points.iloc[:7])  # two configurations are complete, one has a seed
    first = {run.info.run_id for run in runs_of(state, "configuration")}
    assert len(first) == 2
    assert runs_of(state, "sweep")[0].info.status == "RUNNING"
    for _ in range(2):  # another process resumes, and then nothing is left to do
        MlflowTracker.open(state, "production").log_sweep(plan, points)
    again = {run.info.run_id for run in runs_of(state, "configuration")}
    assert len(again) == 6
    assert first < again
    assert len(runs_of(state, "sweep")) == 1


def test_a_child_run_cut_off_by_a_kill_is_completed(state, plan):
    points = points_of(plan)
    tracker = MlflowTracker.open(state, "production")
    parent = tracker.log_sweep(plan, points.iloc[:0])
    key = plan.points[0].configuration_key
    tags = {"kind": "configuration", "configuration_key": key, "mlflow.parentRunId": parent}
    client = MlflowClient(state.mlflow_uri)
    cut_off = client.create_run(tracker.experiment_id(), tags=tags).info.run_id
    tracker.log_sweep(plan, points)
    assert client.get_run(cut_off).info.status == "FINISHED"
    assert client.get_run(cut_off).data.metrics["cost_usd"] > 0.0
    assert len(runs_of(state, "configuration")) == 6


@pytest.mark.slow
def test_a_locked_database_is_a_warning_and_the_next_run_writes_what_is_missing(state, plan, caplog):
    """MLflow waits 20 s for a lock; after that the tracker gives up, so that a job waits once and not for every run."""
    points = points_of(plan)
    assert MlflowTracker.open(state, "production").log_sweep(plan, points.iloc[:3]) is not None
    lock = sqlite3.connect(state.root / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    tracker = MlflowTracker.open(state, "production")
    with caplog.at_level(logging.WARNING, "devops_sim"):
        assert tracker.log_sweep(plan, points) is None
        assert tracker.log_curve("0" * 32, [{"step": 1}]) is None  # returns at once
    assert "database is locked" in tracker.warning
    assert "run the same command again: it writes what is missing" in caplog.text
    lock.execute("ROLLBACK")
    lock.close()
    assert MlflowTracker.open(state, "production").log_sweep(plan, points) is not None
    assert len(runs_of(state, "configuration")) == 6


def test_a_database_that_is_none_is_a_warning_too(state, plan):
    (state.root / "mlflow.db").write_text("this is no database")
    tracker = MlflowTracker.open(state, "production")
    assert tracker.log_sweep(plan, points_of(plan)) is None
    assert "not a database" in tracker.warning
    assert tracker.start("training", "k", "ppo", {}) is None
    assert tracker.log_model(None, state.root / "none.onnx", {}) is None
    with pytest.raises(ModelError, match="cannot be read"):
        resolve_model("models:/autoscaler-production@champion", state)


# --- training and evaluation


def test_a_learning_curve_is_written_in_batches_and_only_once(state):
    tracker = MlflowTracker.open(state, "production")
    run = tracker.start("training", "request-1", "ppo", {"steps": 5000, "algorithm": "ppo", "net": [64, 64]})
    rows = [{"step": 10 * i, "rollout/ep_rew_mean": float(i), "train/loss": math.nan} for i in range(1, 1201)]
    tracker.log_curve(run, rows[:700])
    again = MlflowTracker.open(state, "production")  # after a crash: the same run, all rows once more
    assert again.start("training", "request-1", "ppo", {"steps": 5000, "algorithm": "ppo", "net": [64, 64]}) == run
    again.log_curve(run, rows)
    again.finish(run)
    client = MlflowClient(state.mlflow_uri)
    history = client.get_metric_history(run, "rollout/ep_rew_mean")
    assert [(metric.step, metric.value) for metric in history] == [(10 * i, float(i)) for i in range(1, 1201)]
    assert client.get_run(run).data.params == {"steps": "5000", "algorithm": "ppo", "net": "[64, 64]"}
    assert client.get_run(run).info.status == "FINISHED"
    assert again.start("training", "request-2", "ppo", {}) != run


def test_an_evaluation_has_a_child_run_a_policy_and_the_gap_that_it_closed(state):
    table = pd.DataFrame(
        {
            "policy": ["hpa-tuned", "models:/autoscaler-production@champion"],
            "cost_usd": [20.0, 17.0],
            "cost_usd_ci95_low": [19.0, 16.5],
            "cost_usd_ci95_high": [21.0, 17.5],
        }
    )
    lanes = pd.DataFrame({"policy": ["hpa-tuned"] * 2, "seed": [0, 1], "cost_usd": [19.5, 20.5]})
    gap = {"models:/autoscaler-production@champion": {"mean": 0.6, "ci95": (0.5, 0.7)}}
    tracker = MlflowTracker.open(state, "production")
    run = tracker.log_evaluation("key", "held-out day", table, lanes, gap, {"seeds": 2})
    assert tracker.log_evaluation("key", "held-out day", table, lanes, gap, {"seeds": 2}) == run
    (parent,) = runs_of(state, "evaluation")
    stem = "gap_closed/models_/autoscaler-production_champion"
    assert parent.data.metrics == {stem: 0.6, f"{stem}/ci95_low": 0.5, f"{stem}/ci95_high": 0.7}
    children = {run.data.params["policy"]: run.data.metrics for run in runs_of(state, "policy")}
    assert children["hpa-tuned"] == {"cost_usd": 20.0, "cost_usd/ci95_low": 19.0, "cost_usd/ci95_high": 21.0}
    assert len(children) == 2


def played(attained: float = 0.999, classes: tuple[str, ...] = ("all",)) -> dict:
    figures = {"slo_attainment": {"mean": attained, "ci95": [0.998, math.nan]}}
    return {
        "policy": "hpa",
        "settings": {"target_cpu_utilization_pct": 60},
        "indicators": figures,
        "services": {"api": {"utilization": {"mean": 0.6, "ci95": [0.5, 0.7]}}},
        "classes": {name: {"requests": {"mean": 7.0, "ci95": [math.nan, math.nan]}} for name in classes},
        "lanes": [{"seed": 0, "slo_attainment": attained}],
    }


def test_a_play_is_one_run_with_its_figures_by_service(state, tmp_path):
    """The same play is written once; a timeline that comes later is added to it."""
    tracker = MlflowTracker.open(state, "production")
    run = tracker.log_play("key", {"seeds": [0]}, played(), {"name": "production"})
    (tmp_path / "series.parquet").write_text("")
    assert tracker.log_play("key", {"seeds": [0]}, played(), {}, [tmp_path / "series.parquet"]) == run
    assert tracker.log_play("other", {"seeds": [1]}, played(), {}) != run
    found = next(found for found in runs_of(state, "run") if found.info.run_id == run)
    assert (found.info.run_name, found.info.status) == ("hpa 60 %", "FINISHED")
    assert found.data.metrics == {
        "slo_attainment": 0.999,
        "slo_attainment/ci95_low": 0.998,
        "services/api/utilization": 0.6,
        "services/api/utilization/ci95_low": 0.5,
        "services/api/utilization/ci95_high": 0.7,
    }
    folder = Path(found.info.artifact_uri.removeprefix("file://"))
    assert {file.name for file in folder.iterdir()} == {"lanes.parquet", "profile.yaml", "series.parquet"}
    assert tracker.page(run) == f"http://127.0.0.1:5000/#/experiments/1/runs/{run}?workflowType=machine_learning"


# --- models


@pytest.fixture
def registered(state, tmp_path) -> tuple[StateDir, MlflowTracker, str, str]:
    """A state folder with one training run, whose model is version 1 of autoscaler-production and its champion."""
    tracker = MlflowTracker.open(state, "production")
    run = tracker.start("training", "request-1", "ppo", {})
    metadata = {"profile": {"name": "production"}, "seeds": [1, 2], "version": "0.1.0", "observation": {"size": 3}}
    uri = tracker.log_model(run, save_network(tmp_path / "policy.onnx"), metadata)
    assert tracker.register(uri, "production", CHAMPION, {"gap_closed": 0.6}) == "1"
    return state, tracker, run, uri


def test_a_play_has_the_figures_of_each_class_of_requests_where_there_are_several(state):
    """One class alone is the whole, and has no figures of its own there."""
    tracker = MlflowTracker.open(state, "production")
    run = tracker.log_play("classes", {}, played(classes=("page", "ping")), {"name": "production"})
    found = next(found for found in runs_of(state, "run") if found.info.run_id == run)
    by_class = {name: value for name, value in found.data.metrics.items() if name.startswith("classes/")}
    assert by_class == {"classes/page/requests": 7.0, "classes/ping/requests": 7.0}


def test_a_model_comes_back_by_every_name_with_its_metadata_and_computes(registered):
    state, _, run, uri = registered
    names = ("models:/autoscaler-production@champion", "models:/autoscaler-production/1", f"runs:/{run}", uri)
    for name in names:
        found = resolve_model(name, state)
        assert found.metadata["profile"] == {"name": "production"}
        assert found.metadata["seeds"] == [1, 2]
        assert found.run_id == run
        session = onnxruntime.InferenceSession(str(found.path), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"observation": np.array([[1, 2, 3]], dtype=np.float32)})
        np.testing.assert_array_equal(logits, [[6.0, 6.0]])
    assert resolve_model(names[0], state).version == "1"
    assert MlflowClient(state.mlflow_uri).get_run(run).info.status == "RUNNING"  # logging a model does not end it


def test_a_new_process_finds_the_model_and_writes_nothing_where_it_stands(registered, tmp_path):
    """MLflow looks `models:/` up in its global store, by default one in the current folder."""
    state, _, _, _ = registered
    here = tmp_path / "elsewhere"
    here.mkdir()
    script = f"""
from experiments.store.state import StateDir
from experiments.tracking import resolve_model
print(resolve_model("models:/autoscaler-production@champion", StateDir.open({str(state.root)!r})).path)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=here, capture_output=True, text=True, timeout=guard_s())
    assert done.stdout.strip().endswith("model.onnx"), done.stderr
    assert list(here.iterdir()) == []


def test_a_model_loads_as_an_mlflow_model_with_signature_and_fixed_requirements(registered, monkeypatch):
    import mlflow.pyfunc

    state, _, _, uri = registered
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", state.mlflow_uri)
    model = mlflow.pyfunc.load_model(uri)
    assert "-1, 3" in str(model.metadata.signature.inputs)
    observations = np.ones((4, 3), dtype=np.float32)
    assert model.predict({"observation": observations})["logits"].shape == (4, 2)
    requirements = (resolve_model(uri, state).path.parent / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in requirements} == {"mlflow", "onnx", "onnxruntime", "numpy"}
    assert all("==" in line for line in requirements)


def test_aliases_move_and_a_model_is_registered_once(registered, tmp_path):
    _, tracker, _, uri = registered
    assert tracker.register(uri, "production", CHALLENGER) == "1"
    other = tracker.start("training", "request-2", "ppo", {})
    second = tracker.log_model(other, save_network(tmp_path / "second.onnx"), {"version": "0.1.0"})
    assert tracker.register(second, "production", CHALLENGER) == "2"
    assert tracker.alias_version("production", CHAMPION) == "1"
    assert tracker.alias_version("production", CHALLENGER) == "2"
    assert tracker.alias_version("development", CHAMPION) is None
    assert tracker.warning is None


def test_a_version_shows_what_it_is_how_it_compared_and_whether_it_was_promoted(registered, plan):
    """On the version: text and tags; on the model behind it: the figures of the evaluation."""
    state, tracker, _, _ = registered
    job = Job(plan.profile, plan.trace, 0.0, 86_400.0, steps=5000, seed=1, lanes=4)
    indicators = {
        "cost_usd": {"mean": 38.5, "ci95": [38, 39]},
        "slo_attainment": {"mean": 0.995, "ci95": [0.99, 0.999]},
    }
    agent = {"indicators": indicators, "gap_closed": {"mean": 0.6, "ci95": [0.5, 0.7]}, "keeps_slo": True}
    rival = {"indicators": indicators, "gap_closed": None, "keeps_slo": True}
    version = {"version": "1", "uri": "models:/autoscaler-production@champion"}
    gate = {"passed": False, "reason": "cost: 0.1 USD more than hpa-tuned"}
    describe(tracker, version, job, None, gate, {"agent": agent, "hpa-tuned": rival})
    assert tracker.warning is None
    client = MlflowClient(state.mlflow_uri)
    found = client.get_model_version("autoscaler-production", "1")
    assert found.tags.items() >= {"gate": "failed", "gate_reason": gate["reason"], "keeps_slo": "yes"}.items()
    assert found.tags["gap_closed"] == "0.6"  # what it was registered with stays
    assert "**Promotion: not passed.** cost: 0.1 USD more than hpa-tuned" in found.description
    assert "| **agent** | 38.50 | 99.500% | - | - | 0.60 | yes |" in found.description
    model = client.get_logged_model(found.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics} == {
        "eval/cost_usd": 38.5,
        "eval/slo_attainment": 0.995,
        "eval/gap_closed": 0.6,
    }
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "autoscaler-production", "version": "1"}]
    describe(tracker, version, job, None, gate, {"agent": agent, "hpa-tuned": rival})
    assert len(client.get_metric_history(found.run_id, "eval/cost_usd")) == 1  # the same figure is written once
    describe(tracker, version, job, None)  # a training alone: no comparison, and nobody asked the gate
    assert "has not been compared" in client.get_model_version("autoscaler-production", "1").description


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (
            "models:/autoscaler-producton@champion",
            "(registered: autoscaler-production); did you mean 'autoscaler-production'?",
        ),
        ("models:/autoscaler-production@champoin", "no alias 'champoin' (it has: champion); did you mean 'champion'?"),
        ("models:/autoscaler-production/7", "'autoscaler-production' has no version 7 (it has: 1)"),
        ("models:/autoscaler-production", "must be models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID"),
        ("models:/../../etc/passwd@x", "must be models:/NAME@ALIAS"),
        ("runs:/" + "0" * 32, "no run of id " + "0" * 32),
        ("s3://bucket/model", "must be models:/NAME@ALIAS"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_the_nearest(registered, uri, expected):
    with pytest.raises(ModelError) as caught:
        resolve_model(uri, registered[0])
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"ModelError: {uri}: ")


def test_models_of_a_run_are_found_by_name(registered):
    state, _, run, _ = registered
    assert resolve_model(f"runs:/{run}/policy", state).run_id == run
    with pytest.raises(ModelError, match=r"the run has no model 'polic' \(it has: policy\); did you mean 'policy'"):
        resolve_model(f"runs:/{run}/polic", state)


def test_only_onnx_is_accepted_since_a_pickle_can_run_code(registered):
    state, _, _, uri = registered
    description = resolve_model(uri, state).path.parent / "MLmodel"
    original = yaml.safe_load(description.read_text())
    description.write_text(json.dumps(original | {"flavors": {"python_function": {"loader_module": "mlflow.sklearn"}}}))
    with pytest.raises(ModelError, match="must be a model of flavor onnx, this one has python_function"):
        resolve_model(uri, state)
    outside = original | {"flavors": {"onnx": {"data": "../../../secret.onnx"}}}
    description.write_text(json.dumps(outside))
    with pytest.raises(ModelError, match="names a file outside of the model"):
        resolve_model(uri, state)


def test_nothing_is_registered_in_a_new_folder(state):
    with pytest.raises(ModelError, match="none is registered yet: train one first"):
        resolve_model("models:/autoscaler-production@champion", state)


def test_a_tracker_opened_later_still_belongs_to_its_folder(registered, tmp_path):
    """MLflow notes an address in the environment; there it must not pass for the user's, who named none."""
    state, _, _, uri = registered
    resolve_model(uri, state)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    other = StateDir.open(tmp_path / "other")
    assert MlflowTracker.open(other, "production").uri == other.mlflow_uri
