# ruff: noqa: F811 (fixtures are imported)
"""A state folder can be moved and copied: everything in it follows, and nothing reaches back to where it came from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from experiments.planning.plan import Plan
from experiments.store.relocation import FOLDER_TAG, follow_folder
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from experiments.tracking import MlflowTracker, resolve_model
from experiments.training.gate import Gate
from experiments.training.job import CurveLogger, Job, Trained, register
from flows.commands.compare import compare_sweeps
from flows.commands.report import make_report
from flows.servers.processes import running_prefect
from sim_core.errors import InputError, ModelError
from tests.test_tracking import empty_database, plan, points_of, runs_of, save_network, state  # noqa: F401

MODEL = "models:/autoscaler-production@champion"


def digest_of(folder: Path) -> dict[str, str]:
    """Digest of every file, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def job_of(plan: Plan) -> Job:
    return Job(plan.profile, plan.trace, 0.0, 600.0, steps=5000, seed=1, lanes=4)


def log_training(plan: Plan, state: StateDir, folder: Path) -> dict:
    """What the training flow does once a model is trained."""
    tracker = MlflowTracker.open(state, "production")
    curve = CurveLogger(job_of(plan), tracker)
    model = save_network(folder / "policy.onnx")
    logged = curve.log_model(Trained(job_of(plan).key, model, {"headroom": 1.1}, [], resumed=False))
    assert tracker.warning is None
    return register(tracker, logged, job_of(plan), Gate(True, ()))


@pytest.fixture
def used(state: StateDir, plan: Plan, tmp_path) -> StateDir:
    """A state folder with the first seven points of a sweep, tracked, and a champion."""
    points = points_of(plan)
    store = ResultStore(state.results)
    store.register(plan.sweep_id, plan.keys, plan.spec.to_dict())
    store.append({name: list(points[name].iloc[:7]) for name in points})
    MlflowTracker.open(state, "production").log_sweep(plan, points.iloc[:7])
    assert log_training(plan, state, tmp_path)["version"] == "1"
    return state


@pytest.fixture
def copied(used: StateDir, tmp_path) -> StateDir:
    shutil.copytree(used.root, tmp_path / "a copy" / "state")
    return StateDir.existing(tmp_path / "a copy" / "state")


def test_work_in_a_copy_leaves_the_original_untouched(used, copied, plan, tmp_path):
    """A resumed sweep, its artifacts, a training that is logged again and the champion: all of it lands in the copy."""
    before = digest_of(used.root)
    points = points_of(plan)
    ResultStore(copied.results).append({name: list(points[name].iloc[7:]) for name in points})
    parent = MlflowTracker.open(copied, "production").log_sweep(plan, points)
    (sweep,) = runs_of(copied, "sweep")
    assert sweep.info.run_id == parent
    assert sweep.info.artifact_uri.startswith(f"{copied.artifacts.as_uri()}/")
    assert list(copied.artifacts.rglob("points.parquet"))
    assert resolve_model(MODEL, copied).path.is_relative_to(copied.root)
    assert log_training(plan, copied, tmp_path)["version"] == "1"  # the same training has the same model here too
    assert len(compare_sweeps([], None, copied.root)["configurations"]) == 6
    assert Path(make_report(None, None, copied.root)["report"]).is_relative_to(copied.root)
    assert digest_of(used.root) == before


def test_a_moved_folder_works_where_it_is_now(used, tmp_path):
    """Nothing is left at the old place, and no address in the database names it."""
    moved = StateDir.at(shutil.move(used.root, tmp_path / "moved"))
    model = resolve_model(MODEL, moved)
    assert model.path.is_file() and model.path.is_relative_to(moved.root)
    script = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).log_text(sys.argv[2], 'later', 'note.txt')"
    run_id = runs_of(moved, "training")[0].info.run_id
    subprocess.run([sys.executable, "-c", script, moved.mlflow_uri, run_id], check=True)  # MLflow remembers folders
    assert [path.read_text() for path in moved.artifacts.rglob("note.txt")] == ["later"]
    assert not used.root.exists()
    dump = "\n".join(sqlite3.connect(moved.mlflow_database).iterdump())
    assert f"{used.root}/" not in dump


def test_addresses_that_lie_elsewhere_stay(used, copied):
    """An experiment of the user's own, whose artifacts lie outside, keeps them, even in a folder of a similar name."""
    client = MlflowClient(copied.mlflow_uri)
    outside = f"{used.root.as_uri()}-archive/mine"
    mine = client.create_experiment("mine", artifact_location=outside)
    follow_folder(copied)
    assert client.get_experiment(mine).artifact_location == outside
    assert client.get_experiment_by_name("production").artifact_location == f"{copied.artifacts.as_uri()}/production"


def test_many_processes_may_open_a_copy_at_once_and_a_killed_one_changes_nothing(used, copied, monkeypatch):
    former = [run.info.artifact_uri for run in MlflowClient(copied.mlflow_uri).search_runs(["1"])]

    class Killed(BaseException):
        pass

    import experiments.store.relocation as relocation

    rewrite = relocation._rewrite

    def rewrite_and_die(*args: object) -> None:
        rewrite(*args)
        raise Killed

    monkeypatch.setattr(relocation, "_rewrite", rewrite_and_die)
    with pytest.raises(Killed):
        follow_folder(copied)
    assert [run.info.artifact_uri for run in MlflowClient(copied.mlflow_uri).search_runs(["1"])] == former
    monkeypatch.undo()
    threads = [threading.Thread(target=follow_folder, args=[copied]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = [run.info.artifact_uri for run in MlflowClient(copied.mlflow_uri).search_runs(["1"])]
    assert now == [address.replace(used.root.as_uri(), copied.root.as_uri()) for address in former]


def test_a_folder_of_an_earlier_version_is_marked_when_it_is_opened(used):
    """Experiments without a mark get one, and with it the right page; from then on they follow the folder."""
    database = sqlite3.connect(used.mlflow_database)
    with database:
        database.execute("DELETE FROM experiment_tags")
    MlflowTracker.open(used, "production").experiment_id()
    tags = MlflowClient(used.mlflow_uri).get_experiment_by_name("production").tags
    assert tags[FOLDER_TAG] == used.root.as_uri()
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_copy_does_not_use_the_prefect_server_of_the_original(tmp_path, monkeypatch):
    """`devops-sim ui` notes its server in the folder; in a copy of it the note names a server on another database."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("flows.servers.processes.answers", lambda *args, **more: True)
    home = tmp_path / "state"
    (home / "prefect").mkdir(parents=True)
    note = {"url": "http://127.0.0.1:4200", "pid": 1, "home": str(home)}
    (home / "prefect/server.json").write_text(json.dumps(note))
    shutil.copytree(home, tmp_path / "copy")
    assert running_prefect(home) == "http://127.0.0.1:4200/api"
    assert running_prefect(tmp_path / "copy") is None


def test_the_newest_sweep_is_the_newest_in_a_copy_too(tmp_path):
    """`cp -r` dates files by itself, in an order of its own."""
    store = ResultStore(tmp_path / "results")
    for sweep_id in ("b-1", "a-1", "c-1"):
        store.register(sweep_id, [], {})
    shutil.copytree(store.root, tmp_path / "copy")
    for age, sweep_id in enumerate(("a-1", "b-1", "c-1")):
        os.utime(tmp_path / "copy/sweeps" / f"{sweep_id}.json", (1e9 + age, 1e9 + age))
    assert ResultStore(tmp_path / "copy").sweeps() == ["c-1", "a-1", "b-1"]


# --- reading makes nothing


@pytest.mark.parametrize("read", [lambda at: compare_sweeps([], None, at), lambda at: make_report(None, None, at)])
def test_reading_makes_no_folder_and_says_where_it_looked(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEVOPS_SIM_HOME", raising=False)
    for given, looked in ((None, tmp_path / ".devops-sim"), (tmp_path / "none", tmp_path / "none")):
        with pytest.raises(InputError, match="does not exist; name one with --state") as refused:
            read(given)
        assert str(looked) in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_asking_for_a_model_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ModelError, match="no model is registered in state folder"):
        resolve_model(MODEL, StateDir.at(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no sweep has been run"):
        compare_sweeps([], None, tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
