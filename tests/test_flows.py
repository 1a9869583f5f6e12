"""The flows end to end, as users start them: a whole sweep with training, its resumption, and interruptions."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from agents.learning.evaluate import Evaluation
from experiments.planning import make_plan
from experiments.results import ResultStore
from experiments.spec import load_spec
from flows.sweep import earns_champion
from flows.terminal.progress import Progress
from tests.waiting import all_end, guard_s, start, until

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "flows.cli"]

pytestmark = pytest.mark.timeout(3600)


def environment(home: Path) -> dict[str, str]:
    dropped = ("PREFECT_API_URL", "PREFECT_HOME", "RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"DEVOPS_SIM_HOME": str(home)}


def run(home: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, *(str(arg) for arg in args)]
    return subprocess.run(words, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=guard_s())


def write_spec(path: Path, **changes: object) -> Path:
    spec = {
        "name": path.stem,
        "profile": "production",
        "traffic": {
            "generator": "diurnal",
            "seed": 1,
            "scale_peak_to_replicas": 6,
            "train": {"start": "0d", "duration": "6h"},
            "evaluate": {"start": "6h", "duration": "2h"},
        },
        "duration": "1h",
        "seeds": {"first": 0, "count": 2},
        "policies": [
            {"policy": "static", "replicas": [4, 8]},
            {"policy": "hpa", "target_cpu_utilization_pct": [60, 80]},
        ],
    }
    path.write_text(yaml.safe_dump(spec | changes))
    return path


# --- one whole sweep, looked at from all sides


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("flows") / "state"


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Path:
    evaluation = {"policies": ["static", "hpa-tuned", "clairvoyant", "agent"], "seeds": 3}
    train = {"algorithm": "ppo", "steps": 4096, "seed": 1, "lanes": 16}
    return write_spec(tmp_path_factory.mktemp("spec") / "whole.yaml", train=train, evaluation=evaluation)


@pytest.fixture(scope="module")
def swept(home, spec) -> dict:
    done = run(home, "sweep", spec, "--json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "results in" not in done.stderr  # Prefect's log is on its pages
    return json.loads(done.stdout)  # one JSON document and nothing else


def test_a_sweep_goes_from_points_to_a_registered_model_and_a_report(swept, home, spec):
    assert swept["points"] == {"total": 8, "resumed": 0, "simulated": 8}
    assert set(make_plan(load_spec(spec)).keys) == ResultStore(home / "results").finished_keys()
    assert {row["label"] for row in swept["configurations"]} >= {
        "static replicas=4",
        "hpa target_cpu_utilization_pct=60",
    }
    assert swept["training"]["outcome"]["steps"] >= 4096
    model = swept["model"]["registered"]
    assert (model["name"], model["version"]) == ("autoscaler-production", "1")
    assert "challenger" in model["aliases"]
    policies = swept["evaluation"]["policies"]
    assert list(policies) == ["static", "hpa-tuned", "clairvoyant", "agent"]
    for entry in policies.values():
        assert entry["indicators"]["slo_attainment"]["mean"] > 0
    assert swept["mlflow"]["warning"] is None
    page = Path(swept["report"]).read_text()
    assert "plotly" in page and "https://" not in page.split("<body", 1)[0].split("Content-Security-Policy", 1)[0]


def test_prefect_shows_what_the_sweep_was_and_what_came_out(swept, home):
    """Tags to find it by, a log of its stages, and artifacts that say where the rest is."""
    with contextlib.closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        (tags,) = database.execute("SELECT tags FROM flow_run WHERE name LIKE '%whole.yaml'").fetchone()
        artifacts = {key: (kind, data) for key, kind, data in database.execute("SELECT key, type, data FROM artifact")}
        told = "\n".join(row[0] for row in database.execute("SELECT message FROM log"))
    assert {"sweep", "profile:production", "sweep:whole"} <= set(json.loads(tags))
    assert float(artifacts["whole-progress"][1]) == 100
    best, summary = swept["best"]["label"], json.loads(artifacts["whole-summary"][1])
    for words in (best, swept["report"], swept["mlflow"]["page"], "autoscaler-production", swept["best"]["reason"]):
        assert words in summary
    kind, table = artifacts["whole-configurations"]
    rows = {row["configuration"]: row for row in json.loads(json.loads(table))}
    assert kind == "table"
    for row in swept["configurations"]:
        assert rows[row["label"]]["slo_attainment"] == row["indicators"]["slo_attainment"]["mean"]
    assert swept["mlflow"]["page"] in artifacts["whole-mlflow"][1]
    assert Path(swept["report"]).as_uri() in artifacts["whole-report"][1]
    for words in ("8 points: 0 from earlier runs, 8 to simulate", "simulate: done in", f"best: {best}", swept["state"]):
        assert words in told


def test_the_same_sweep_again_only_reads_what_is_finished(swept, home, spec):
    done = run(home, "sweep", spec)
    assert done.returncode == 0, done.stderr
    assert "0 points simulated, 8 from earlier runs" in done.stdout
    assert "version 1" in done.stdout
    assert Path(swept["report"]).name in done.stdout
    assert "devops-sim ui" in done.stdout
    again = json.loads(run(home, "compare", "whole", "--json").stdout)
    assert again["configurations"] == swept["configurations"]


def test_the_registered_model_runs_and_is_evaluated(swept, home):
    model = "models:/autoscaler-production@challenger"
    window = ["--start", "6h", "--duration", "1h", "--scale-peak-to-replicas", "6", "--json"]
    evaluated = run(home, "evaluate", "production", "--policies", f"hpa,clairvoyant,{model}", "--seeds", "3", *window)
    assert evaluated.returncode == 0, evaluated.stderr
    document = json.loads(evaluated.stdout)
    assert list(document["policies"]) == ["hpa", "clairvoyant", model]
    assert document["policies"]["clairvoyant"]["indicators"]["cost_usd"]["mean"] > 0
    played = run(home, "run", "production", "--policy", model, *window)
    assert played.returncode == 0, played.stderr
    wrong = run(home, "run", "production", "--policy", "models:/autoscaler-production@chalenger", *window)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'challenger'?" in wrong.stderr


def test_a_report_is_made_again_from_what_is_on_disk(swept, home, tmp_path):
    path = tmp_path / "again.html"
    done = run(home, "report", "--output", path, "--json")
    assert json.loads(done.stdout)["report"] == str(path)
    assert path.stat().st_size == pytest.approx(Path(swept["report"]).stat().st_size, rel=0.01)


def test_compare_gives_paired_differences(swept, home):
    done = run(home, "compare", "--baseline", "static replicas=8", "--json")
    rows = {row["label"]: row for row in json.loads(done.stdout)["configurations"]}
    assert rows["static replicas=8"]["differences"]["cost_usd"]["mean"] == 0
    assert rows["static replicas=4"]["differences"]["cost_usd"]["mean"] < 0
    unknown = run(home, "compare", "--baseline", "static replicas=9")
    assert unknown.returncode == 2 and "did you mean 'static replicas=8'?" in unknown.stderr


# --- interruptions


def interrupted(tmp_path: Path, send: Callable[[subprocess.Popen], None]) -> tuple[int, str, Path, Path]:
    """A sweep that is stopped when the first batches are stored and most are not: exit code, stderr, spec, state."""
    days = {"generator": "diurnal", "seed": 1, "scale_peak_to_replicas": 20}
    replicas = {"from": 15, "to": 26, "step": 1}
    spec = write_spec(
        tmp_path / "long.yaml", traffic=days, duration="6d", policies=[{"policy": "static", "replicas": replicas}]
    )
    home = tmp_path / "state"
    store = home / "results" / "points"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*COMMAND, "sweep", spec, "--json"]
    process = start(command, cwd=ROOT, env=environment(home), start_new_session=True, **pipes)
    try:
        until(lambda: list(store.glob("*.parquet")), "stored batch", process)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 4  # Prefect, and Ray with its actors
        send(process)
        output, errors = process.communicate(timeout=guard_s())
    finally:
        process.kill()
    assert output == ""
    assert all_end(started)
    return process.returncode, errors, spec, home


def prefect_records(home: Path) -> dict[str, list[str]]:
    """What the Prefect database of a state folder holds: the states of its runs, and every text about them."""
    queries = {
        "flow runs": "SELECT state_type FROM flow_run",
        "task runs": "SELECT state_type FROM task_run",
        "texts": "SELECT message FROM log UNION ALL SELECT message FROM flow_run_state "
        "UNION ALL SELECT message FROM task_run_state WHERE message IS NOT NULL",
    }
    with contextlib.closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        return {name: [row[0] for row in database.execute(query)] for name, query in queries.items()}


def interrupt_as_a_terminal_does(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)  # to all that are in its foreground


@pytest.mark.parametrize(
    ("send", "code"),
    [(interrupt_as_a_terminal_does, 130), (subprocess.Popen.terminate, 143)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_stopped_sweep_ends_every_process_is_cancelled_in_prefect_and_resumes(tmp_path, send, code):
    """Nothing crashed and no actor died by itself, so neither Prefect nor the terminal says so."""
    returned, errors, spec, home = interrupted(tmp_path, send)
    assert returned == code, errors
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    records = prefect_records(home)
    assert records["flow runs"] == ["CANCELLED"]
    assert set(records["task runs"]) == {"COMPLETED", "CANCELLED"}
    told = "\n".join([errors, *(text or "" for text in records["texts"])])
    for word in ("died", "out of memory", "Crash", "crash", "Retry"):
        assert word not in told
    kept = len(ResultStore(home / "results").finished_keys())
    assert 0 < kept < 24
    resumed = run(home, "sweep", spec, "--json")
    assert json.loads(resumed.stdout)["points"] == {"total": 24, "resumed": kept, "simulated": 24 - kept}


def test_a_dead_prefect_address_is_one_message(tmp_path):
    spec = write_spec(tmp_path / "small.yaml")
    env = environment(tmp_path / "state") | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run([*COMMAND, "sweep", str(spec)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("PREFECT_API_URL=http://127.0.0.1:9/api")
    assert "Traceback" not in done.stderr


def test_a_state_folder_that_is_a_file_is_refused(tmp_path):
    spec = write_spec(tmp_path / "small.yaml")
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = run(blocked, "sweep", spec)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(blocked) in done.stderr and "Traceback" not in done.stderr


# --- rules


def evaluation_of(**policies: tuple[float, float]) -> Evaluation:
    """An evaluation with only (cost, attainment) of each policy under an SLO of 99 %."""
    rows = [
        {"policy": name.replace("_", "-"), "cost_usd": cost, "slo_attainment": attained, "keeps_slo": attained >= 0.99}
        for name, (cost, attained) in policies.items()
    ]
    return Evaluation(pd.DataFrame(rows), pd.DataFrame(), {}, {})


def test_a_champion_keeps_the_slo_and_is_cheaper_than_its_rivals():
    assert earns_champion(evaluation_of(agent=(9.0, 0.995), hpa_tuned=(10.0, 0.995)))
    assert earns_champion(evaluation_of(agent=(11.0, 0.995), hpa_tuned=(10.0, 0.98)))  # a cheap HPA that breaks the SLO
    assert not earns_champion(evaluation_of(agent=(11.0, 0.995), hpa_tuned=(10.0, 0.995)))
    assert not earns_champion(evaluation_of(agent=(9.0, 0.98), hpa_tuned=(10.0, 0.995)))
    assert not earns_champion(evaluation_of(hpa_tuned=(10.0, 0.995)))
    reigning = evaluation_of(agent=(9.0, 0.995), hpa_tuned=(10.0, 0.995), champion=(8.0, 0.995))
    reigning.table.loc[2, "policy"] = "models:/autoscaler-production@champion"
    assert not earns_champion(reigning)


def test_progress_without_a_terminal_is_plain_lines(capsys):
    with Progress() as progress:
        for done in range(101):
            progress.update("simulate", done, 100, "fast")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # the first, and the last: not one a unit
    assert lines[0].endswith("simulate: 0 of 100  fast") and lines[1].endswith("simulate: 100 of 100  fast")
