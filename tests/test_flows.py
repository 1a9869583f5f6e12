"""The flows end to end, as users start them: a whole sweep with training, its resumption, and interruptions."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from experiments.planning.plan import make_plan
from experiments.planning.spec import load_spec, spec_from_dict
from experiments.report import keep_findings, report_data
from experiments.store.finished import recall_document
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from experiments.training.job import Trained
from flows.requests import TrainingRequest
from flows.sweep import Clock, time_spent
from flows.terminal.progress import Progress
from flows.terminal.tables import evaluation_command
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
    evaluation = {"policies": ["static", "hpa-tuned", "clairvoyant", "general", "agent"], "seeds": 3}
    train = {"algorithm": "ppo", "steps": 4096, "seed": 1, "lanes": 16}
    return write_spec(tmp_path_factory.mktemp("spec") / "whole.yaml", train=train, evaluation=evaluation)


@pytest.fixture(scope="module")
def swept(home, spec) -> dict:
    done = run(home, "sweep", spec, "--json")
    assert done.returncode == 0, done.stderr
    ours = re.compile(r"Starting Prefect and Ray \.\.\.|\[ *[\d.]+ s\] (simulate|train|evaluate): [^\x1b]*")
    document = json.loads(done.stdout)  # one JSON document and nothing else
    told = [line for line in done.stderr.splitlines() if not ours.fullmatch(line)]  # nothing of Ray, no colours
    # Static replicas are tuned on the traffic before, which grows: they are too few.
    assert told == [f"Warning: {warning}" for warning in document["warnings"]]
    assert all(line.startswith("Warning: static: api was saturated: offered 10") for line in told)
    return document


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
    gate = swept["model"]["gate"]
    assert model["aliases"] == (["challenger", "champion"] if gate["passed"] else ["challenger"])
    assert gate["seeds"] == 3 and gate["slo_attainment"] > 0.0
    assert gate["reason"] and gate["passed"] == (not gate["failures"])
    policies = swept["evaluation"]["policies"]
    assert list(policies) == ["static", "hpa-tuned", "clairvoyant", "general", "agent"]
    for name, entry in policies.items():
        means = {indicator: value["mean"] for indicator, value in entry["indicators"].items()}
        assert means["slo_attainment"] > 0
        assert means["cost_pods_usd"] + means["cost_fixed_usd"] == pytest.approx(means["cost_usd"], rel=1e-12)
        assert (entry["savings"] is None) == (name == "hpa-tuned")
    client = MlflowClient(StateDir.open(home).mlflow_uri)
    experiment = client.get_experiment_by_name("production").experiment_id
    runs = {
        run.data.params["policy"]: run.data.metrics for run in client.search_runs([experiment], "tags.kind = 'policy'")
    }
    for name in ("static", "clairvoyant", "agent"):
        share = policies[name]["savings"]["replica_hours_share"]
        assert runs[name]["saved_replica_hours_share"] == pytest.approx(share)
        assert runs[name]["cost_database_usd"] == pytest.approx(runs["hpa-tuned"]["cost_database_usd"]) and share != 0.0
    assert swept["mlflow"]["warning"] is None
    page = Path(swept["report"]).read_text()
    assert "plotly" in page and "https://" not in page.split("<body", 1)[0].split("Content-Security-Policy", 1)[0]
    assert (
        "<h2>A day of decisions: the trained agent</h2>" in page and "the general agent comes with the package" in page
    )
    decisions = report_data(swept["sweep_id"], StateDir.open(home)).decisions
    assert set(decisions["policy"]) == {"agent"} and len(decisions) == 2 * 3600 / 15


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
    findings = json.loads((home / "reports" / f"{swept['sweep_id']}.json").read_text())
    spent_s = findings["provenance"]["wall_time_s"]  # of the run that did the work
    assert spent_s["train"] == pytest.approx(swept["training"]["outcome"]["wall_s"], abs=0.1) and spent_s["train"] > 1.0
    assert spent_s["simulate"] == pytest.approx(swept["seconds"]["simulate"], abs=0.1)
    again = json.loads(run(home, "compare", "whole", "--json").stdout)
    placed = {"group": 1, "sweeps": [swept["sweep_id"]]}
    assert again["configurations"] == [row | placed for row in swept["configurations"]]
    assert again["best"] == swept["best"]


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
    done = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=guard_s())
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


def test_a_sweep_over_scenarios_says_what_it_chose_in_each_and_what_has_no_effect(tmp_path):
    """What is suffered is warned of under parameters; scenarios reach the document, the report and the terminal."""
    startup, cold = "services.api.lifecycle.startup_seconds", "services.api.lifecycle.cold_seconds"
    policies = [{"policy": "static", "replicas": [4, 8]}]
    spec = write_spec(
        tmp_path / "trial.yaml", policies=policies, parameters={cold: [10, 20]}, scenarios={startup: [10, 60]}
    )
    done = run(tmp_path / "state", "sweep", spec, "--json")
    assert done.returncode == 0, done.stderr
    swept = json.loads(done.stdout)
    assert swept["points"]["total"] == 2 * 2 * 2 * 2
    assert f"Warning: parameters.{cold} is suffered rather than chosen; put it under scenarios" in done.stderr
    assert len(swept["warnings"]) == 1
    assert [row["scenario"][startup] for row in swept["configurations"]] == [10, 60] * 4
    assert [entry["scenario"] for entry in swept["best_by_scenario"]] == [{startup: 10}, {startup: 60}]
    assert [found["name"] for found in swept["without_effect"]] == [cold, startup]  # a static fleet starts nothing
    assert f"In the scenario {startup}=60 alone: " in Path(swept["report"]).read_text()
    again = run(tmp_path / "state", "sweep", spec)
    assert f"best if {startup}=60: static replicas=" in again.stdout
    assert f"Note: {cold}: no effect between 10 and 20" in again.stdout


# --- a training that rolls with the date


def test_a_training_is_evaluated_before_it_may_be_champion_and_resumes_on_its_date(tmp_path):
    """On a quiet night the tuned HPA sits at `minReplicas`: no agent is cheaper, so the first model stays challenger.

    The same date again reads training and evaluation from disk.
    """
    quiet = ["--set", "services.api.replicas.min=12", "--scale-peak-to-replicas", "6"]
    window = ["--last", "5h", "--held-out", "2h", "--steps", "2048", "--lanes", "16", "--json"]
    home = tmp_path / "state"
    done = run(home, "train", "production", *quiet, *window, "--date", "2026-11-22")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["training"]["seed"] == 20261122
    assert list(first["evaluation"]["policies"]) == ["hpa-tuned", "agent"]
    assert (first["evaluation"]["start_s"], first["evaluation"]["duration_s"]) == (3 * 3600.0, 2 * 3600.0)
    gate = first["model"]["gate"]
    assert not gate["passed"]
    assert "than hpa-tuned; the interval must lie below 0" in gate["reason"]
    assert first["model"]["registered"]["aliases"] == ["challenger"]

    again = run(home, "train", "production", *quiet, *window[:-1], "--date", "2026-11-22")
    assert again.returncode == 0, again.stderr
    assert "Not promoted, cost: " in again.stdout
    assert "version 1 (challenger)" in again.stdout
    assert "from an earlier run" in again.stderr
    champion = ["--policies", "models:/autoscaler-production@champion"]
    asked = run(home, "evaluate", "production", *quiet, *champion)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "no model of 'autoscaler-production' has been promoted yet" in asked.stderr
    assert "models:/autoscaler-production@challenger" in asked.stderr


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
    done = subprocess.run([*COMMAND, *asked, "--steps", "2048", "--lanes", "8"], timeout=guard_s(), **options)
    assert done.returncode == 0, done.stderr
    (printed,) = [line for line in done.stdout.splitlines() if line.startswith("Compare it: ")]
    command = printed.removeprefix("Compare it: ")
    for option in ("--start 2h --duration 3h", "--scale-peak-to-replicas 5", "services.api.replicas.max=30"):
        assert option in command
    compared = subprocess.run(command, shell=True, timeout=guard_s(), **options)
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.startswith("ours, 3h, 10 seeds")
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
    assert resumed.returncode == 0, resumed.stderr
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


def trained_in(*clocks: float, wall_s: float) -> Trained:
    rows = [{"step": 100 * k, "time/wall_s": clock} for k, clock in enumerate(clocks, start=1)]
    return Trained("key", Path("policy.onnx"), {"wall_s": wall_s}, rows, resumed=True)


def test_a_training_took_the_time_of_all_its_attempts():
    """Interrupted 30 s and 20 s after a begin, finished after 50 s: each attempt's clock starts at 0."""
    assert trained_in(10.0, 20.0, wall_s=50.0).wall_s == 50.0
    assert trained_in(10.0, 30.0, 5.0, 20.0, 1.0, 40.0, wall_s=50.0).wall_s == 100.0


def test_resuming_does_not_overwrite_the_time_that_the_work_took(tmp_path):
    """A second run reads everything from disk in no time: the report keeps what the first one spent on it."""
    plan, state = make_plan(load_spec(write_spec(tmp_path / "spec.yaml"))), StateDir.open(tmp_path / "state")
    trained = trained_in(10.0, 20.0, wall_s=50.0)

    def kept(counts: dict[str, int], evaluated_before: bool, **seconds: float) -> dict[str, float]:
        clock = Clock()
        clock.seconds = seconds
        spent = time_spent(clock, counts, trained, evaluated_before)
        return json.loads(keep_findings(plan, state, None, None, trained, {}, spent).read_text())["provenance"][
            "wall_time_s"
        ]

    first = kept({"simulated": 8}, False, simulate=40.0, track=1.5, train=52.0, evaluate=13.0)
    assert first == {"simulate": 40.0, "track": 1.5, "train": 50.0, "evaluate": 13.0}
    assert kept({"simulated": 0}, True, simulate=0.0, track=0.0, train=0.0, evaluate=0.0) == first
    assert kept({"simulated": 2}, True, simulate=7.0, track=0.2, train=0.0, evaluate=0.0)["simulate"] == 7.0


def test_progress_without_a_terminal_is_plain_lines(capsys):
    with Progress() as progress:
        for done in range(101):
            progress.update("simulate", done, 100, "fast")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # the first, and the last: not one a unit
    assert lines[0].endswith("simulate: 0 of 100  fast") and lines[1].endswith("simulate: 100 of 100  fast")
