"""The command line as users meet it: real processes, exact exit codes, JSON alone on standard output."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from mlflow import MlflowClient

from flows.terminal.output import plain
from sim_core.profile import load_profile
from sim_core.simulation import simulate
from sim_core.workload import Trace
from sim_core.world import Lane
from tests.waiting import all_end, guard_s, start, until

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "flows.cli"]

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def sim(tmp_path):
    """Runs `devops-sim ARGS` with a state folder of its own; gives the finished process."""

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        words = [str(arg) for arg in args]
        return subprocess.run(
            [*COMMAND, *words], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=guard_s()
        )

    return run


def environment(folder: Path) -> dict[str, str]:
    dropped = ("PREFECT_API_URL", "PREFECT_HOME", "RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {
        "DEVOPS_SIM_HOME": str(folder / "state")
    }


@pytest.fixture
def trace(tmp_path) -> Path:
    """Two hours of a slow wave, one row a minute."""
    path = tmp_path / "wave.csv.gz"
    rates = 60.0 + 30.0 * np.sin(np.arange(120) / 120 * 2 * math.pi)
    rows = "".join(f"{60 * i},{rate:.3f}\n" for i, rate in enumerate(rates))
    path.write_bytes(gzip.compress(("t_seconds,requests_per_second\n" + rows).encode()))
    return path


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The input was wrong: exit code 2, one message with these words, no traceback, nothing on standard output."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


# --- help and mistakes


def test_every_command_has_help(sim):
    listed = sim("--help").stdout
    commands = ("run", "sweep", "train", "evaluate", "compare", "report", "profile", "trace", "ui", "bench")
    for command in (*commands, "benchmark-agents"):
        assert f"\n  {command} " in listed
        assert sim(command, "--help").returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["evalute"], ["evalute", "evaluate"]),
        (["run", "production", "--lane", "2"], ["--lane", "--lanes"]),
        (["run", "production", "--lanes", "two"], ["--lanes"]),
        (["run", "production", "--lanes", "0"], ["--lanes"]),
        (["run", "prodution"], ["ProfileError", "prodution", "production"]),
        (["run", "production", "--policy", "hpaa"], ["PolicyError", "hpaa", "did you mean 'hpa'?"]),
        (["run", "production", "--policy", "static"], ["--replicas"]),
        (["run", "production", "--policy", "hpa", "--policy", "clairvoyant", "--replicas", "3"], ["--replicas 3"]),
        (
            ["run", "production", "--policy", "static(replicas=2)", "--replicas", "3"],
            ["--replicas 3", "static(replicas=2)"],
        ),
        (["run", "production", "--policy", "hpa", "--policy", "hpa"], ["'hpa' is named twice"]),
        (["run", "production", "--policy", "hpa", "--policy", "hpaa"], ["unknown policy 'hpaa'"]),
        (["run", "production", "--policy", "no_such_module:Policy"], ["PolicyError", "no module 'no_such_module'"]),
        (["evaluate", "production", "--policies", "hpa,no_such_module:Policy"], ["no module 'no_such_module'"]),
        (["evaluate", "production", "--rivals", "forcast"], ["--rivals", "unknown rival", "did you mean 'forecast'?"]),
        (["evaluate", "production", "--policies", "forecast(headrom=2)"], ["did you mean 'headroom'?"]),
        (["run", "production", "--set", "startup=60"], ["did you mean 'services.api.lifecycle.startup_seconds'?"]),
        (["run", "production", "--policy", "hpa", "--replicas", "3"], ["--replicas"]),
        (["run", "production", "--engine", "fluids"], ["--engine", "did you mean 'fluid'?"]),
        (["run", "production", "--threads", "0"], ["--threads"]),
        (["run", "production", "--trace-requests", "0.1"], ["--trace-requests", "needs --engine requests"]),
        (["run", "production", "--engine", "requests", "--trace-requests", "2"], ["--trace-requests", "at most 1"]),
        (["sweep", "demo", "--engine", "request"], ["--engine", "did you mean 'requests'?"]),
        (["evaluate", "production", "--engine", "fluidd"], ["--engine", "did you mean 'fluid'?"]),
        (["benchmark-agents", "no/such.csv", "--block", "1 week"], ["no/such.csv: no such file or folder", "--block"]),
        (["run", "production", "--duration", "1 fortnight"], ["--duration"]),
        (["run", "production", "--duration", "0s"], ["--duration", "greater than 0"]),
        (["run", "production", "--traffic", "diurnl"], ["diurnl", "diurnal"]),
        (["run", "production", "--trace", "no/such.csv"], ["TraceError", "no/such.csv"]),
        (["run", "production", "--set", "services.api.replicas.mx=3"], ["replicas.mx", "did you mean 'max'?"]),
        (["run", "production", "--set", "nonsense"], ["--set", "PATH=VALUE"]),
        (["sweep", "no/such.yaml"], ["SpecError", "no/such.yaml"]),
        (["bench", "agreement", "--seeds", "2"], ["--seeds"]),
        (["bench", "agreement", "--onyl", "random"], ["--onyl", "--only"]),
        (["bench", "--quick", "agreement"], ["options of agreement stand behind it"]),
        (["profile", "check", "no/such.yaml"], ["ProfileError", "no/such.yaml"]),
        (["trace", "info", "no/such.csv"], ["TraceError", "no/such.csv"]),
    ],
)
def test_wrong_input_ends_with_one_message_and_code_2(sim, tmp_path, args, words):
    refused(sim(*args), *words)
    assert not (tmp_path / "state").exists()  # nothing half-written


def test_profile_check_names_all_problems_at_once(sim, tmp_path):
    profile = yaml.safe_load((ROOT / "sim_core/profiles/production.yaml").read_text())
    profile["slo"]["objective"] = 1.5
    profile["services"][0]["replicas"]["mx"] = profile["services"][0]["replicas"].pop("max")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(profile))
    refused(
        sim("profile", "check", path), "slo.objective", "(got 1.5)", "services.0.replicas.mx", "did you mean 'max'?"
    )


LIGHT_REFUSALS = [
    ["run", "production", "--policy", "hpaa"],
    ["run", "prodution"],
    ["run", "production", "--traffic", "diurnl"],
    ["run", "production", "--set", "startup=60"],
    ["run", "production", "--engine", "fluids"],
    ["evaluate", "production", "--engine", "fluids"],
    ["evaluate", "production", "--policies", "hpa,agent"],
    ["evaluate", "prodution"],
    ["train", "prodution"],
    ["train", "production", "--traffic", "diurnl"],
    ["sweep", "no/such.yaml"],
    ["sweep", "demoo"],
    ["sweep", "wrong.yaml"],
]
WRONG_SPEC = """
name: wrong
profile: production
traffic: {generator: diurnal}
duration: 1h
policies: [{policy: hpaa}, {policy: hpa, target_cpu: 60}]
objective: {minimize: cost}
"""
HEAVY = ("numpy", "numba", "pandas", "scipy", "ray", "mlflow", "prefect", "torch", "stable_baselines3", "matplotlib")


@pytest.mark.parametrize("args", LIGHT_REFUSALS, ids=" ".join)
def test_what_can_be_refused_by_name_is_refused_before_anything_heavy_is_imported(tmp_path, args):
    (tmp_path / "wrong.yaml").write_text(WRONG_SPEC)
    command = [sys.executable, "-X", "importtime", "-m", "flows.cli", *args]
    env = environment(tmp_path) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=guard_s())
    assert (done.returncode, done.stdout) == (2, "")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in imported
    assert not imported & set(HEAVY)


def test_version_names_package_python_and_simulator(sim):
    from experiments.store.identity import simulator_version

    package, _, digest = simulator_version().partition("+")
    shown = sim("--version").stdout
    assert shown == f"devops-sim {package}, Python {sys.version.split()[0]}, simulator {digest[:12]}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run pro", {"production"}),
        ("run production --policy cl", {"clairvoyant"}),
        ("run production --engine re", {"requests"}),
        ("sweep demo --engine fl", {"fluid"}),
        ("run production --traffic f", {"flash-crowd"}),
        ("evaluate production --policies static,hpa", {"static,hpa", "static,hpa-tuned"}),
        ("sweep dem", {"demo"}),
        ("swe", {"sweep"}),
    ],
)
def test_the_shell_completes_names_without_the_simulator(tmp_path, words, expected):
    """As bash asks, by the protocol of the script that --show-completion prints."""
    line = f"devops-sim {words}"
    asked = {"_DEVOPS_SIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    code = "import sys; sys.argv[0] = 'devops-sim'; from flows.cli import main; main()"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path) | asked, capture_output=True, text=True, timeout=guard_s()
    )
    assert set(done.stdout.split()) == expected
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & set(HEAVY)


def test_completion_can_be_installed(sim):
    assert "--install-completion" in sim("--help").stdout
    assert "--show-completion" in sim("--help").stdout


def test_quiet_leaves_out_progress_and_keeps_errors(sim):
    args = [
        "evaluate",
        "production",
        "--policies",
        "static(replicas=20)",
        "--start",
        "0d",
        "--duration",
        "10m",
        "--seeds",
        "2",
    ]
    loud, quiet = sim(*args, "--json"), sim(*args, "--json", "--quiet")
    assert "evaluate: 1 of 1" in loud.stderr
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout == loud.stdout
    refused(sim("evaluate", "production", "--policies", "hpaa", "--quiet"), "hpaa")
    for command in ("sweep", "train", "evaluate", "benchmark-agents", "bench", "ui"):  # all that show progress
        assert "--quiet" in sim(command, "--help").stdout


def test_the_total_is_the_whole_time_since_the_command_began(tmp_path):
    """Imports, servers and clusters included: as long as the user waits, but for Python's own end."""
    code = "import time; time.sleep(0.5); from flows.cli import _present as show; show(lambda: {'seconds': {}}, print, True)"
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True
    )
    assert 0.5 <= json.loads(done.stdout)["seconds"]["total"] <= time.monotonic() - began_s


# --- profiles and traces


def test_profile_list_show_check(sim, tmp_path):
    listed = json.loads(sim("profile", "list", "--json").stdout)["profiles"]
    assert {"production", "development", "experimental"} <= {profile["name"] for profile in listed}
    shown = sim("profile", "show", "production", "--set", "services.api.replicas.max=30").stdout
    assert yaml.safe_load(shown)["services"][0]["replicas"]["max"] == 30
    path = tmp_path / "copy.yaml"
    path.write_text(shown)
    assert sim("profile", "check", path).returncode == 0


def test_trace_info_tells_the_figures_of_the_file(sim, trace):
    facts = json.loads(sim("trace", "info", trace, "--json").stdout)
    assert facts["step_s"] == 60
    assert facts["duration_s"] == 7200
    assert facts["peak_per_s"] == pytest.approx(90.0, abs=0.01)
    assert facts["mean_per_s"] == pytest.approx(60.0, abs=0.01)


def test_trace_info_refuses_a_gap_with_its_line(sim, tmp_path):
    path = tmp_path / "gap.csv"
    path.write_text("t_seconds,requests_per_second\n0,1\n60,1\n180,1\n240,1\n")
    refused(sim("trace", "info", path), "TraceError", "gap.csv", "line 4")


# --- run


def test_run_prints_one_json_document_with_intervals_over_seeds(sim, trace):
    args = [
        "run",
        "production",
        "--trace",
        trace,
        "--policy",
        "hpa",
        "--engine",
        "fluid",
        "--seed",
        "7",
        "--lanes",
        "4",
    ]
    done = sim(*args, "--duration", "1h", "--scale-peak-to-replicas", "5", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    played = document["policies"]["hpa"]
    assert document["seeds"] == [7, 8, 9, 10] == [lane["seed"] for lane in played["lanes"]]
    assert document["duration_s"] == 3600
    assert document["engine"] == "fluid"
    for name, value in played["indicators"].items():
        values = np.array([lane[name] for lane in played["lanes"]], dtype=float)
        if np.isfinite(values).all():
            low, high = value["ci95"]
            assert low <= value["mean"] <= high
            assert value["mean"] == pytest.approx(values.mean())
    # 5 replicas serve the peak at 70 %: 5 x 0.7 x 40 requests/s of a core
    assert document["traffic"]["peak_per_s"] == pytest.approx(140.0, rel=0.01)
    again = json.loads(
        sim(*args, "--threads", "2", "--duration", "1h", "--scale-peak-to-replicas", "5", "--json").stdout
    )
    assert again == document


def test_run_scales_with_the_policy_and_the_overrides(sim, trace):
    def cost(*extra: str) -> float:
        done = sim("run", "production", "--trace", trace, "--duration", "1h", "--policy", "static", "--json", *extra)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["policies"]["static"]["indicators"]["replica_hours"]["mean"]

    assert cost("--replicas", "4") == pytest.approx(4.0)
    assert cost("--replicas", "8", "--set", "services.api.replicas.max=6") == pytest.approx(6.0)


def test_run_for_people_prints_a_table(sim, trace):
    done = sim("run", "production", "--trace", trace, "--duration", "30m", "--lanes", "2", "--policy", "hpa")
    assert done.returncode == 0, done.stderr
    assert "slo_attainment" in done.stdout and "cost_usd" in done.stdout


def test_several_policies_play_the_same_lanes_side_by_side(sim, trace):
    """Each as if it were alone; an option is a setting of the policy that has it, and of no other."""
    window = ["--trace", trace, "--duration", "1h", "--lanes", "2"]
    named = ["--policy", "static", "--policy", "hpa", "--policy", "static(replicas=3)"]
    args = ["run", "production", *window, *named, "--replicas", "6", "--target-utilization", "50"]
    document = json.loads(sim(*args, "--json").stdout)
    assert list(document["policies"]) == ["static", "hpa", "static(replicas=3)"]
    hours = {name: entry["indicators"]["replica_hours"]["mean"] for name, entry in document["policies"].items()}
    assert (hours["static"], hours["static(replicas=3)"]) == (pytest.approx(6.0), pytest.approx(3.0))
    assert document["policies"]["hpa"]["settings"] == {"target_cpu_utilization_pct": 50}
    alone = json.loads(sim("run", "production", *window, "--target-utilization", "50", "--json").stdout)
    assert alone["policies"] == {"hpa": document["policies"]["hpa"]}
    shown = sim(*args).stdout
    (header,) = [line for line in shown.splitlines() if line.split()[:1] == ["indicator"]]
    assert header.split() == ["indicator", "static", "hpa", "static(replicas=3)"]


def test_run_plays_every_request_on_as_many_threads_as_asked(sim, trace):
    """The document says which engine it was; the lanes are those of the other engine, what they find is not."""
    args = ["run", "production", "--trace", trace, "--duration", "10m", "--lanes", "2", "--no-track", "--json"]
    documents = []
    for extra in (["--engine", "fluid"], ["--engine", "requests"], ["--engine", "requests", "--threads", "2"]):
        done = sim(*args, *extra)
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
    fluid, requests, threaded = documents
    assert (fluid["engine"], requests["engine"]) == ("fluid", "requests")
    assert threaded == requests
    assert fluid["traffic"] == requests["traffic"]
    means = [document["policies"]["hpa"]["indicators"]["latency_mean_s"]["mean"] for document in (fluid, requests)]
    assert means[0] != means[1]


def test_run_writes_spans_of_the_share_of_requests_that_was_asked_for(sim, trace, tmp_path):
    """One Parquet and one OpenTelemetry file a policy and seed; the answer is that without traces."""
    args = ["run", "production", "--trace", trace, "--start", "1h", "--duration", "10m"]
    args += ["--engine", "requests", "--no-track", "--json"]
    folder = tmp_path / "spans"
    done = sim(*args, "--trace-requests", "0.05", "--trace-output", folder)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    table, spans = map(Path, document.pop("request_traces"))
    assert (table.name, spans.name) == ("hpa-seed0.parquet", "hpa-seed0.json")
    traced = pd.read_parquet(table)
    calls = document["policies"]["hpa"]["services"]["api"]["calls"]["mean"]
    kinds = traced["kind"].value_counts()
    assert abs(kinds["request"] - 0.05 * calls) <= 5.0 * math.sqrt(0.05 * calls)
    assert {"api"} < set(traced["service"])
    began_s = [
        int(span["startTimeUnixNano"]) / 1e9
        for resource in json.loads(spans.read_text())["resourceSpans"]
        for span in resource["scopeSpans"][0]["spans"]
    ]
    midnight_s = min(began_s) // 86_400.0 * 86_400.0
    assert abs(time.time() - midnight_s) < 2 * 86_400.0  # today, or a midnight has passed
    assert midnight_s + 3600.0 <= min(began_s) < max(began_s) < midnight_s + 3600.0 + 610.0
    assert document == {k: v for k, v in json.loads(sim(*args).stdout).items() if k != "request_traces"}


def test_bench_agreement_judges_and_says_so_by_its_exit_code(sim, tmp_path):
    """The record of what was played is one that runs and reports can ask."""
    record = tmp_path / "record.json"
    args = ["--only", "least_outstanding fifo load 0.3 pods 5 scv 1", "--seeds", "4", "--record", record, "--json"]
    done = sim("bench", "agreement", *args)
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["verdict"]["agree"] else 1), done.stderr
    (row,) = document["scenarios"]
    assert row["seeds"] == 4 and abs(row["differences"]["latency_mean_s"]["mean"]) < 10.0
    assert json.loads(record.read_text())["scenarios"][0]["name"] == row["scenario"]


def test_run_refuses_to_play_beyond_the_trace(sim, trace):
    refused(sim("run", "production", "--trace", trace, "--start", "1h", "--duration", "2h"), "wave.csv.gz", "7200")


def test_run_writes_the_time_series_of_every_lane_and_is_tracked(sim, trace, tmp_path):
    """The file holds what the document says; the same figures are a run in MLflow, with the file as an artifact."""
    path = tmp_path / "series.parquet"
    args = ["run", "production", "--trace", trace, "--lanes", "2", "--duration", "30m", "--json"]
    done = sim(*args, "--timeline", path, "--timeline-step", "5m")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    table = pd.read_parquet(path)
    assert list(table["seed"]) == [0] * 6 + [1] * 6
    assert list(table["time_s"][:6]) == [300.0 * k for k in range(1, 7)]
    last = table[table["time_s"] == 1800.0]
    played = document["policies"]["hpa"]
    assert last["cost_usd"].mean() == pytest.approx(played["indicators"]["cost_usd"]["mean"])
    api = played["services"]["api"]
    rates = table["services.api.call_rate_per_s"]
    assert rates.mean() * 1800.0 == pytest.approx(api["calls"]["mean"])
    assert api["replica_hours"]["mean"] == pytest.approx(played["indicators"]["replica_hours"]["mean"])
    (page,) = re.findall(r"MLflow, hpa: (\S+)", done.stderr)
    client = MlflowClient(f"sqlite:///{tmp_path}/state/mlflow.db")
    run = client.get_run(re.search("runs/([0-9a-f]{32})", page)[1])
    assert run.data.tags["kind"] == "run"
    assert run.data.metrics["services/api/utilization"] == pytest.approx(api["utilization"]["mean"])
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "lanes.parquet",
        "profile.yaml",
        "series.parquet",
    }


def test_run_with_no_track_leaves_nothing_and_without_mlflow_the_answer_stands(sim, trace, tmp_path):
    """A state folder that cannot be made, or a database that is none, costs a line on standard error and no more."""
    args = ["run", "production", "--trace", trace, "--duration", "30m"]
    assert sim(*args, "--no-track").returncode == 0
    assert not (tmp_path / "state").exists()
    (tmp_path / "file").write_text("")
    done = sim(*args, "--state", tmp_path / "file")
    assert done.returncode == 0 and "slo_attainment" in done.stdout
    assert "Not tracked" in done.stderr and "--no-track" in done.stderr
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/mlflow.db").write_text(
        "this is no database, but long enough to be taken for the head of one" * 9
    )
    done = sim(*args, "--state", tmp_path / "broken", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["policies"]["hpa"]["services"]
    assert "not a database" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--timeline", "no/such/series.parquet"], ["--timeline", "there is no folder"]),
        (["--timeline", "series.csv"], ["--timeline", "must end in .parquet"]),
        (["--timeline", "series.parquet", "--timeline-step", "20s"], ["--timeline-step", "sync period, 15 s"]),
    ],
)
def test_a_timeline_that_cannot_be_written_is_refused_before_anything_is_simulated(sim, tmp_path, options, words):
    """4,096 lanes for a month would take minutes and gigabytes: the answer comes at once."""
    refused(sim("run", "production", "--lanes", "4096", "--duration", "30d", *options), *words)
    assert not (tmp_path / "state").exists()


# --- evaluate


def test_evaluate_leaves_a_report_and_its_runs(sim, tmp_path):
    """The page of the comparison, with timelines, and in MLflow a parent with it and a child run a policy."""
    args = ["evaluate", "production", "--policies", "hpa,clairvoyant", "--start", "2h", "--duration", "1h"]
    done = sim(*args, "--seeds", "2", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    report = Path(document["report"]).read_text()
    assert document["engine"] == "fluid" and "Engine: fluid." in report
    assert "Policies on held-out traffic" in report and 'id="figure-timeline"' in report
    client = MlflowClient(f"sqlite:///{tmp_path}/state/mlflow.db")
    run_id = document["mlflow"]["run_id"]
    assert document["mlflow"]["page"].endswith(f"/runs/{run_id}?workflowType=machine_learning")
    artifacts = {file.path for file in client.list_artifacts(run_id)}
    assert artifacts == {"lanes.parquet", "policies.parquet", Path(document["report"]).name}
    assert client.get_run(run_id).data.params["engine"] == "fluid"
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {child.data.params["policy"] for child in children} == {"hpa", "clairvoyant"}
    again = sim(*args, "--seeds", "3", "--no-track", "--json")
    assert json.loads(again.stdout)["mlflow"] is None
    assert len(client.search_runs(["1"])) == 3


def test_evaluate_makes_no_folder_for_a_model_that_is_not_there(sim, tmp_path):
    refused(
        sim("evaluate", "production", "--policies", "models:/autoscaler-production@champion"), "no model is registered"
    )
    assert not (tmp_path / "state").exists()


# --- ui


def test_ui_serves_both_pages_and_ends_with_ctrl_c(tmp_path):
    ports = [free_port(), free_port()]
    args = ["ui", "--mlflow-port", str(ports[0]), "--prefect-port", str(ports[1])]
    process = start(
        [*COMMAND, *args],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]  # printed once both answer
        assert [line.split()[0] for line in lines] == ["MLflow", "Prefect"]
        runs = process.stdout.readline().split()
        assert runs == ["Runs", f"{lines[0].split()[1]}/#/experiments?workflowType=machine_learning"]
        assert process.stdout.readline() == f"export PREFECT_API_URL=http://127.0.0.1:{ports[1]}/api\n"
        started = psutil.Process(process.pid).children(recursive=True)
        for line, path in zip(lines, ("/health", "/api/health"), strict=True):
            with urllib.request.urlopen(line.split()[1] + path, timeout=guard_s()) as response:
                assert response.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(guard_s()) == 130
        assert not [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert not (tmp_path / "state/prefect/server.json").exists()
    finally:
        process.kill()
        process.wait()


def test_ui_refuses_a_port_in_use(sim):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(sim("ui", "--mlflow-port", port), f"--mlflow-port {port}", "choose another")
        refused(sim("ui", "--mlflow-port", str(free_port()), "--prefect-port", port), f"--prefect-port {port}")


def test_ui_ends_its_servers_even_when_killed(tmp_path):
    """SIGKILL leaves no time to clean up; Linux then ends the servers."""
    ports = [str(free_port()), str(free_port())]
    args = ["ui", "--mlflow-port", ports[0], "--prefect-port", ports[1]]
    process = subprocess.Popen([*COMMAND, *args], cwd=ROOT, env=environment(tmp_path), stderr=subprocess.DEVNULL)
    try:
        until(lambda: len(psutil.Process(process.pid).children()) == 2, "two servers", process)
        started = psutil.Process(process.pid).children()
    finally:
        process.kill()
        process.wait()
    assert all_end(started)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- stops

_LOST = """
import ctypes, os, time
from flows import cli

@cli.app.command()
def lose(number: int):
    ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), number))()
    time.sleep(3600.0)

cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_that_plays_every_request_ends_when_it_is_stopped(tmp_path, threads, number, code):
    """3.5 billion requests take many minutes, however few are served: only the stop ends it, and it comes while kernels run,
    which are compiled before."""
    trace = tmp_path / "flat.csv.gz"
    trace.write_bytes(gzip.compress(b"t_seconds,requests_per_second\n0,20000\n86400,20000\n172800,20000\n"))
    args = ["run", "production", "--policy", "static(replicas=4)", "--engine", "requests", "--threads", threads]
    args += ["--trace", trace, "--duration", "2d", "--lanes", threads, "--no-track"]
    simulate([Lane(load_profile("production"), Trace("short", 60.0, np.ones(2)), 1)], 2.0, engine="requests")
    process = start(
        [*COMMAND, *args],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = iter(process.stderr.readline, "")
        assert any("each an event" in line for line in told)  # the last line before the first tick
        used_s = psutil.Process(process.pid).cpu_times().user
        until(lambda: psutil.Process(process.pid).cpu_times().user > used_s + 5.0, "five seconds of work", process)
        process.send_signal(number)
        assert process.wait(guard_s()) == code
        assert "Stopped" in process.stderr.read()
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_that_is_lost_in_a_callback_comes_again(tmp_path, number, code):
    """As in a compiler: what is raised in a function that C calls goes nowhere."""
    process = start([sys.executable, "-c", _LOST, "lose", int(number)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.wait(guard_s()) == code, process.stderr.read()


# --- what JSON cannot hold


def test_json_holds_neither_nan_nor_infinity():
    document = {
        "a": math.nan,
        "b": [math.inf, 1.5],
        "c": np.float64("nan"),
        "d": np.array([1, 2]),
        "e": np.int64(3),
        "f": True,
    }
    expected = {"a": None, "b": [None, 1.5], "c": None, "d": [1, 2], "e": 3, "f": True}
    assert plain(document) == expected
    assert json.loads(json.dumps(plain(document), allow_nan=False)) == expected
