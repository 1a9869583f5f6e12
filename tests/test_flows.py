"""The flows end to end, as users start them: a whole sweep with training, its resumption, and interruptions."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from agents.learning.evaluate import Evaluation
from experiments.finished import recall_document
from experiments.planning import make_plan
from experiments.results import ResultStore
from experiments.spec import load_spec, spec_from_dict
from experiments.state import StateDir
from flows.requests import TrainingRequest
from flows.sweep import earns_champion
from flows.terminal.progress import Progress
from flows.terminal.tables import evaluation_command

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "flows.cli"]

pytestmark = pytest.mark.timeout(400)


def environment(home: Path) -> dict[str, str]:
    dropped = ("PREFECT_API_URL", "PREFECT_HOME", "RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"DEVOPS_SIM_HOME": str(home)}


def run(home: Path, *args: str | Path, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, *(str(arg) for arg in args)]
    return subprocess.run(words, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=timeout_s)


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
    ours = re.compile(r"Starting Prefect and Ray \.\.\.|\[ *[\d.]+ s\] (simulate|train|evaluate): [^\x1b]*")
    assert not [line for line in done.stderr.splitlines() if not ours.fullmatch(line)]  # nothing of Ray, no colours
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


def test_the_same_sweep_again_only_reads_what_is_finished(swept, home, spec):
    done = run(home, "sweep", spec)
    assert done.returncode == 0, done.stderr
    assert "0 points simulated, 8 from earlier runs" in done.stdout
    assert "version 1" in done.stdout
    assert Path(swept["report"]).name in done.stdout
    assert "devops-sim ui" in done.stdout
    again = json.loads(run(home, "compare", "whole", "--json").stdout)
    assert again["configurations"] == swept["configurations"]


AUDITED = """
import sys
started = []


def audit(event, args):
    if event == "subprocess.Popen":
        started.append(args[0])
    elif event in ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"):
        started.append(event)


sys.addaudithook(audit)
from flows.cli import app
try:
    app(sys.argv[1:], prog_name="devops-sim")
except SystemExit:
    pass
loaded = [name for name in ("ray", "prefect", "torch") if name in sys.modules]
print({name for name in started if name != "uname"} or "nothing", loaded, file=sys.stderr)  # a library asks for the CPU
"""


def test_a_finished_sweep_is_answered_from_disk_and_starts_nothing(swept, home, spec):
    """No process; the document is that of the first run, but for what was counted and how long it took."""
    command = [sys.executable, "-c", AUDITED, "sweep", str(spec), "--json", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == "nothing []"
    again = json.loads(done.stdout)
    assert again["points"] == {"total": 8, "resumed": 8, "simulated": 0}
    assert {**again, "points": swept["points"], "seconds": swept["seconds"]} == swept


def test_a_sweep_of_which_something_is_missing_is_not_answered_from_disk(swept, home, spec, tmp_path, monkeypatch):
    """A point, the report, the run in MLflow, the model, or another question over the same points."""
    plan, state = make_plan(load_spec(spec)), StateDir.open(home)
    assert recall_document(plan, state) is not None
    model = state.checkpoints / swept["training"]["key"] / "policy.onnx"
    for needed in (next((home / "results" / "points").glob("*.parquet")), Path(swept["report"]), model):
        aside = needed.rename(tmp_path / "aside")
        assert recall_document(plan, state) is None
        aside.rename(needed)
    asked = plan.spec.to_dict()
    other = make_plan(spec_from_dict(asked | {"objective": asked["objective"] | {"minimize": "replica_hours"}}))
    assert other.sweep_id == plan.sweep_id
    assert recall_document(other, state) is None
    assert recall_document(plan, state) is not None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    assert recall_document(plan, state) is None


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


def test_the_command_that_a_training_prints_runs_as_it_stands(tmp_path):
    """Whatever was asked is in it: a profile by its path, overrides, trace, scale, the part held out, the state folder."""
    profile, trace = tmp_path / "my profile.yaml", tmp_path / "my trace.csv"
    profile.write_text(
        (ROOT / "sim_core/profiles/production.yaml").read_text().replace("name: production", "name: ours")
    )
    trace.write_text("t_seconds,requests_per_second\n" + "".join(f"{60 * i},{50 + i % 60}\n" for i in range(300)))
    asked = ["train", profile.name, "--trace", trace.name, "--scale-peak-to-replicas", "5", "--duration", "2h"]
    asked += ["--set", "services.api.replicas.max=30", "--set", "description=of 'ours'", "--state", "my state"]
    env = {name: value for name, value in environment(tmp_path).items() if name != "DEVOPS_SIM_HOME"}
    options = {"cwd": tmp_path, "env": env | {"PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    done = subprocess.run([*COMMAND, *asked, "--steps", "2048", "--lanes", "8"], timeout=240, **options)
    assert done.returncode == 0, done.stderr
    (printed,) = [line for line in done.stdout.splitlines() if line.startswith("Compare it: ")]
    command = printed.removeprefix("Compare it: ")
    for option in ("--start 2h --duration 3h", "--scale-peak-to-replicas 5", "services.api.replicas.max=30"):
        assert option in command
    compared = subprocess.run(command, shell=True, timeout=240, **options)
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.startswith("ours, 10 seeds")
    assert "models:/autoscaler-ours@" in compared.stdout


def test_the_printed_command_tells_a_generator_and_keeps_quiet_where_nothing_is_held_out(tmp_path):
    request = TrainingRequest(profile="production", traffic="spiky", traffic_seed=4, overrides={"description": "7"})
    document = {
        "request": request.model_dump(mode="json"),
        "held_out": {"start_s": 7 * 86_400.0 + 30.5, "duration_s": 5400.0},
        "model": {"registered": {"uri": "models:/autoscaler-production@champion"}},
        "state": str(tmp_path),
    }
    words = shlex.split(evaluation_command(document))
    for option, value in {
        "--start": "604830.5s",
        "--duration": "90m",
        "--traffic": "spiky",
        "--traffic-seed": "4",
        "--set": 'description="7"',  # text that would read as a number
        "--state": str(tmp_path),
    }.items():
        assert words[words.index(option) + 1] == value
    assert evaluation_command(document | {"held_out": None}) == ""


# --- interruptions


def test_ctrl_c_ends_every_process_and_the_next_run_resumes(tmp_path):
    """Stopped when the first batches are stored and most are not."""
    days = {"generator": "diurnal", "seed": 1, "scale_peak_to_replicas": 20}
    replicas = {"from": 15, "to": 26, "step": 1}
    spec = write_spec(
        tmp_path / "long.yaml", traffic=days, duration="6d", policies=[{"policy": "static", "replicas": replicas}]
    )
    home = tmp_path / "state"
    store = home / "results" / "points"
    command = [*COMMAND, "sweep", str(spec), "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment(home), start_new_session=True, **pipes)
    try:
        give_up_s = time.monotonic() + 150
        while not list(store.glob("*.parquet")) and process.poll() is None and time.monotonic() < give_up_s:
            time.sleep(0.02)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 4  # Prefect, and Ray with its actors
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that are in its foreground
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert output == ""
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    kept = len(ResultStore(home / "results").finished_keys())
    assert 0 < kept < 24
    resumed = run(home, "sweep", spec, "--json")
    assert json.loads(resumed.stdout)["points"] == {"total": 24, "resumed": kept, "simulated": 24 - kept}


def test_a_dead_prefect_address_is_one_message(tmp_path):
    spec = write_spec(tmp_path / "small.yaml")
    env = environment(tmp_path / "state") | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run([*COMMAND, "sweep", str(spec)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
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
