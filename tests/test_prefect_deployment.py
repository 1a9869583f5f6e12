"""The deployments of prefect.yaml on a real server with a real worker: deployed, run by hand, run by their schedule."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from experiments.planning.plan import make_plan
from experiments.planning.spec import load_spec
from experiments.store.results import ResultStore
from flows.servers.processes import platform_environment, start_prefect
from tests.waiting import guard_s, until

ROOT = Path(__file__).parents[1]
POOL = "devops-sim"
PREFECT = [sys.executable, "-m", "prefect"]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
UNAVAILABLE = 503  # what the server answers while it starts, or has too much to do

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def write_spec(path: Path, seeds: int, **changes: object) -> Path:
    spec = {
        "name": path.stem,
        "profile": "development",
        "traffic": {"generator": "diurnal", "seed": 3, "scale_peak_to_replicas": 3},
        "duration": "20m",
        "seeds": {"first": 0, "count": seeds},
        "policies": [{"policy": "static", "replicas": [2, 3]}, {"policy": "hpa"}],
    }
    path.write_text(yaml.safe_dump(spec | changes))
    return path


class Api:
    """The few requests that the test makes of the server."""

    def __init__(self, url: str):
        self.url = url

    def call(self, path: str, body: object = None, method: str | None = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        content = until(lambda: self._answer(request), f"answer to {path}")[0]
        return json.loads(content) if content else None

    def _answer(self, request: urllib.request.Request) -> tuple[bytes] | None:
        try:
            with urllib.request.urlopen(request, timeout=guard_s()) as response:
                return (response.read(),)
        except urllib.error.HTTPError as error:
            if error.code != UNAVAILABLE:
                raise
            return None

    def wait_for(self, flow_run_id: str) -> str:
        """Type of the final state of a flow run, and what it says."""

        def final() -> str | None:
            state = self.call(f"/flow_runs/{flow_run_id}")["state"]
            return f"{state['type']} {state.get('message') or ''}".strip() if state["type"] in FINAL else None

        return until(final, f"final state of {flow_run_id}")


def prefect(*words: str) -> None:
    """A command of Prefect, again where the server was not available."""

    def finished() -> bool:
        command = [*PREFECT, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=guard_s())
        said = done.stdout + done.stderr
        assert done.returncode == 0 or str(UNAVAILABLE) in said, said
        return done.returncode == 0

    until(finished, "prefect " + " ".join(words))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """Server, deployments and worker in folders of their own: (api, state folder, worker's log)."""
    folder = tmp_path_factory.mktemp("prefect")
    home = folder / "state"
    with pytest.MonkeyPatch.context() as environment, contextlib.ExitStack() as stack:
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "DEVOPS_SIM_HOME", "RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            environment.delenv(name, raising=False)
        for name, value in {**platform_environment(home), "DEVOPS_SIM_HOME": str(home), "PWD": str(ROOT)}.items():
            environment.setenv(name, value)
        environment.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "2")
        server = start_prefect(home)
        stack.callback(server.stop)
        environment.setenv("PREFECT_API_URL", f"{server.url}/api")
        server.wait_until_ready()
        prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
        prefect("--no-prompt", "deploy", "--all")
        log = folder / "worker.log"
        worker = [*PREFECT, "worker", "start", "--pool", POOL, "--limit", "2"]
        with log.open("wb") as stream:
            process = subprocess.Popen(worker, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True)
        stack.callback(end_group, process)
        yield Api(f"{server.url}/api"), home, log


def end_group(process: subprocess.Popen[bytes]) -> None:
    for signal_number in (
        signal.SIGTERM,
        signal.SIGTERM,
        signal.SIGKILL,
    ):  # a worker takes the first as "finish your runs"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    process.wait()


def test_every_flow_is_deployed_with_its_schedule(deployed):
    api, _, _ = deployed
    deployments = {(d["name"], d["entrypoint"]): d for d in api.call("/deployments/filter", {})}
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {(d["name"], d["entrypoint"]) for d in declared} == set(deployments)
    for one in declared:
        found = deployments[one["name"], one["entrypoint"]]
        assert found["parameters"] == one["parameters"]
        assert [s["schedule"]["cron"] for s in found["schedules"]] == [s["cron"] for s in one["schedules"]]
        assert found["work_pool_name"] == POOL
        assert found["parameter_openapi_schema"]["properties"][
            "request"
        ]  # a form in the UI, checked before a run exists


def test_a_deployed_sweep_runs_by_hand_and_by_its_schedule(deployed, tmp_path):
    """An ad-hoc run alone would not show a scheduler that creates no runs, as with an SQLAlchemy that does not fit."""
    api, home, log = deployed
    deployment = api.call("/deployments/name/sweep/demo")
    for schedule in deployment["schedules"]:  # the demo itself must not start, whatever the clock says
        api.call(f"/deployments/{deployment['id']}/schedules/{schedule['id']}", {"active": False}, "PATCH")

    by_hand = write_spec(tmp_path / "by-hand.yaml", seeds=2)
    run = api.call(
        f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"request": {"spec": str(by_hand)}}}
    )
    assert api.wait_for(run["id"]) == "COMPLETED", log.read_text()[-3000:]
    plan = make_plan(load_spec(by_hand))
    assert set(plan.keys) <= ResultStore(home / "results").finished_keys()
    tasks = api.call("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert {t["state"]["type"] for t in tasks} == {"COMPLETED"}
    assert {"sweep", "profile:development", "sweep:by-hand"} <= set(api.call(f"/flow_runs/{run['id']}")["tags"])
    artifacts = api.call("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    shown = {"by-hand-summary", "by-hand-configurations", "by-hand-progress", "by-hand-mlflow", "by-hand-report"}
    assert shown <= {artifact["key"] for artifact in artifacts}

    scheduled = write_spec(tmp_path / "by-schedule.yaml", seeds=3)
    interval = {
        "interval": 60,
        "anchor_date": dt.datetime.now(dt.UTC).isoformat(),
    }  # if not in time for one, then the next
    new = {"schedule": interval, "active": True, "parameters": {"request": {"spec": str(scheduled)}}, "slug": "soon"}
    api.call(f"/deployments/{deployment['id']}/schedules", [new])
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    runs = until(lambda: [r for r in api.call("/flow_runs/filter", wanted) if r["auto_scheduled"]], "scheduled run")
    assert api.wait_for(runs[0]["id"]) == "COMPLETED", log.read_text()[-3000:]
    assert set(make_plan(load_spec(scheduled)).keys) <= ResultStore(home / "results").finished_keys()


def test_a_deployed_run_is_cancelled_in_prefect_with_its_tasks(deployed, tmp_path):
    """As the button in the UI does: the worker ends the process, and no actor is said to have died."""
    api, home, log = deployed
    deployment = api.call("/deployments/name/sweep/demo")
    replicas = {"policy": "static", "replicas": {"from": 15, "to": 98, "step": 1}}
    traffic = {"generator": "diurnal", "seed": 1, "scale_peak_to_replicas": 20}
    long = write_spec(
        tmp_path / "long.yaml", 2, profile="production", duration="6d", traffic=traffic, policies=[replicas]
    )
    keys = set(make_plan(load_spec(long)).keys)
    body = {"parameters": {"request": {"spec": str(long)}}}
    run = api.call(f"/deployments/{deployment['id']}/create_flow_run", body)
    until(lambda: keys & ResultStore(home / "results").finished_keys(), "stored batch")
    prefect("flow-run", "cancel", run["id"])
    assert api.wait_for(run["id"]).startswith("CANCELLED"), log.read_text()[-3000:]

    def ended() -> dict[str, tuple[str, str]]:
        """State and message of each task by name, once all have one that is final: the process reports them as it ends."""
        tasks = api.call("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        states = {task["name"]: (task["state"]["type"], task["state"].get("message") or "") for task in tasks}
        return {} if any(kind in ("PENDING", "RUNNING") for kind, _ in states.values()) else states

    states = until(ended, "end of all tasks")
    assert {kind for kind, _ in states.values()} <= {"COMPLETED", "CANCELLED"}, states
    assert "died" not in log.read_text()


def test_a_wrong_request_is_refused_before_a_run_exists(deployed):
    api, _, _ = deployed
    deployment = api.call("/deployments/name/sweep/demo")
    with pytest.raises(urllib.error.HTTPError) as refused:
        api.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"request": {"actors": -1}}})
    assert refused.value.code == 409
