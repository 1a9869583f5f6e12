"""Every command of README.md is run, in the order in which it stands there."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from flows.servers.processes import free_port
from sim_core.profile import load_profile
from tests.waiting import all_end, guard_s, start, until

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)

AS_IT_STANDS = None
# A test takes others.
PORTS = {"{mlflow}": 5000, "{prefect}": 4200, "{ray}": 6390, "{dashboard}": 8265, "{agent}": 52365}


@dataclass(frozen=True)
class Serves:
    """A command that runs until it is ended: what is run in its place, and when the next command may follow."""

    command: str
    ready: Callable[[Project], bool]
    endings: tuple[int, ...] = (0, 130, -signal.SIGINT)


@dataclass
class Project:
    """A fresh folder with what README takes for granted, the ports of its servers, and the environment of its terminals."""

    folder: Path
    ports: dict[str, int]
    environment: dict[str, str]
    output: dict[str, Path] = field(default_factory=dict)

    def text_of(self, command: str) -> str:
        """What a command has said so far."""
        return self.output[command].read_text(errors="replace")

    def with_ports(self, command: str) -> str:
        """The command with the ports of this project."""
        for name, usual in PORTS.items():
            command = command.replace(name, str(self.ports[name])).replace(f":{usual}", f":{self.ports[name]}")
        return command


def deployed_run_has_completed(project: Project) -> bool:
    """Whether the run that README asked for has come to its end."""
    url = f"http://127.0.0.1:{project.ports['{prefect}']}/api/flow_runs/filter"
    query = json.dumps({"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}).encode()
    request = urllib.request.Request(url, query, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=guard_s()) as response:
        states = [run["state"]["type"] for run in json.loads(response.read())]
    assert not {"FAILED", "CRASHED", "CANCELLED"} & set(states)
    return "COMPLETED" in states


UI, WORKER = "devops-sim ui", "prefect worker start --pool devops-sim"
HEAD = "ray start --head --port 6390 --node-ip-address 127.0.0.1 --dashboard-host 127.0.0.1 --dashboard-port 8265"

# README's command -> what is run in its place, where it would take minutes, need a port that may be taken, or never end.
# my-traffic.csv.gz is a small trace of eight days, my-profile.yaml a copy of production, small.yaml a sweep of seconds.
COMMANDS: dict[str, str | Serves | None] = {
    "make demo": "{make} -n demo SPEC=small.yaml | tail -n 1 | bash",  # the last line of its recipe; the others install
    "make test": "{make} -n test | tail -n 1 | sed 's|$| --collect-only -q {root}|' | bash",  # this suite, not run again
    "devops-sim profile show production": AS_IT_STANDS,
    "devops-sim profile check my-profile.yaml": AS_IT_STANDS,
    "devops-sim trace info my-traffic.csv.gz": AS_IT_STANDS,
    "devops-sim run production --policy hpa --seed 7 --lanes 8 --duration 24h": AS_IT_STANDS,
    "devops-sim run production --policy hpa --target-utilization 80 "
    "--set services.api.lifecycle.startup_seconds=60": AS_IT_STANDS,
    "devops-sim run production --policy 'static(replicas=12)' --policy hpa --lanes 8 --timeline day.parquet": AS_IT_STANDS,
    "devops-sim profile show boutique --graph": AS_IT_STANDS,
    "devops-sim run front --duration 6h --lanes 3": AS_IT_STANDS,
    "devops-sim run front --duration 10m --lanes 2 --threads 2 --engine requests --trace-requests 0.01": AS_IT_STANDS,
    "devops-sim bench agreement --only diamond --seeds 8": (  # it judges, and ends with 1 where they do not agree
        "devops-sim bench agreement --only diamond --seeds 3 || test $? = 1"
    ),
    "devops-sim sweep experiments/specs/capacity.yaml": "devops-sim sweep small.yaml",
    "devops-sim compare capacity": "devops-sim compare small",
    "devops-sim train production --trace my-traffic.csv.gz --scale-peak-to-replicas 20 --steps 500000 --seed 1": (
        "devops-sim train production --trace my-traffic.csv.gz --scale-peak-to-replicas 20 --steps 4096 --seed 1"
    ),
    "devops-sim evaluate production --trace my-traffic.csv.gz --scale-peak-to-replicas 20 --start 7d --duration 1d "
    "--policies static,hpa-tuned,clairvoyant,models:/autoscaler-production@challenger --seeds 10": (
        "devops-sim evaluate production --trace my-traffic.csv.gz --scale-peak-to-replicas 20 --start 7d --duration 1d "
        "--policies static,hpa-tuned,clairvoyant,models:/autoscaler-production@challenger --seeds 3"
    ),
    "devops-sim run production --policy general --policy rule --trace my-traffic.csv.gz --scale-peak-to-replicas 20 "
    "--start 7d": AS_IT_STANDS,
    "devops-sim explain rule --at 14:20 --trace my-traffic.csv.gz --scale-peak-to-replicas 20 --start 7d --output day.csv": (
        AS_IT_STANDS
    ),
    "devops-sim benchmark-agents my-traffic.csv.gz --budget-days 150 --seeds 2": (
        "devops-sim benchmark-agents my-traffic.csv.gz --budget-days 4 --seeds 1 --policies hpa-tuned,rule,clairvoyant"
    ),
    "devops-sim benchmark-agents my-traffic.csv.gz --policies hpa-tuned,rule,general --faults": (
        "devops-sim benchmark-agents my-traffic.csv.gz --policies hpa-tuned,rule --faults --budget-days 4 --seeds 1"
    ),
    UI: Serves(
        "devops-sim ui --mlflow-port {mlflow} --prefect-port {prefect}",
        lambda project: (
            f"export PREFECT_API_URL=http://127.0.0.1:{project.ports['{prefect}']}/api" in project.text_of(UI)
        ),
    ),
    "export PREFECT_API_URL=http://127.0.0.1:4200/api": AS_IT_STANDS,
    "prefect work-pool create devops-sim --type process": AS_IT_STANDS,
    "prefect --no-prompt deploy --all": AS_IT_STANDS,
    "prefect deployment run sweep/demo": """prefect deployment run sweep/demo --param 'request={"spec": "small.yaml"}'""",
    WORKER: Serves(WORKER, deployed_run_has_completed),
    "export RAY_AUTH_MODE=token RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0": AS_IT_STANDS,
    "(umask 077; ray get-auth-token --generate > /dev/null)": AS_IT_STANDS,
    HEAD: Serves(
        "ray start --block --head --port {ray} --node-ip-address 127.0.0.1 --dashboard-host 127.0.0.1 "
        "--dashboard-port {dashboard} --dashboard-agent-listen-port {agent} --num-cpus 2 --object-store-memory 100000000",
        lambda project: "Ray runtime started" in project.text_of(HEAD),
        endings=(1,),  # as Ray has it for --block
    ),
    "RAY_ADDRESS=localhost:6390 devops-sim sweep experiments/specs/capacity.yaml": (
        "RAY_ADDRESS=localhost:6390 devops-sim sweep small.yaml"
    ),
    "ray job submit --address http://127.0.0.1:8265 -- devops-sim sweep experiments/specs/capacity.yaml": (
        # The first job after a start is sometimes lost.
        "for _ in 1 2; do ray job submit --address http://127.0.0.1:8265 -- devops-sim sweep small.yaml && break; done"
    ),
}


def blocks() -> list[list[str]]:
    """The commands of each shell block: continued lines as one, without comments."""
    found = []
    for block in BLOCK.findall(README.read_text()):
        lines = COMMENT.sub("", re.sub(r"\\\n\s*", "", block)).splitlines()
        found.append([line.strip() for line in lines if line.strip() and not line.startswith("#")])
    return found


@pytest.fixture
def project(tmp_path) -> Iterator[Project]:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "specs").symlink_to(ROOT / "experiments" / "specs")
    for name in ("prefect.yaml", "Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "my-profile.yaml").write_text(yaml.safe_dump(load_profile("production").to_dict()))
    time_s = np.arange(0, 8 * 86_400, 300)
    rates = 60.0 - 40.0 * np.cos(2.0 * np.pi * time_s / 86_400.0)
    rows = "".join(f"{at},{rate:.2f}\n" for at, rate in zip(time_s, rates, strict=True))
    (tmp_path / "my-traffic.csv.gz").write_bytes(gzip.compress(("t_seconds,requests_per_second\n" + rows).encode()))
    small = {
        "name": "small",
        "profile": "development",
        "traffic": {"generator": "diurnal", "seed": 3, "scale_peak_to_replicas": 3},
        "duration": "20m",
        "seeds": {"count": 2},
        "policies": [{"policy": "static", "replicas": [2, 3]}],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    dropped = ("RAY_", "PREFECT_", "MLFLOW_", "DEVOPS_SIM_", "PYTEST_", "MAKE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    short = tempfile.mkdtemp(prefix="ds-", dir="/tmp")  # Ray's sockets need a short path
    own = {"HOME": str(tmp_path), "PWD": str(tmp_path), "PYTHONPATH": str(ROOT), "RAY_TMPDIR": short}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    yield Project(tmp_path, {name: free_port() for name in PORTS}, kept | own | {"PATH": path})
    shutil.rmtree(short, ignore_errors=True)


def perform(project: Project, command: str, stack: contextlib.ExitStack) -> None:
    """One command of README, or what stands in its place."""
    entry = COMMANDS[command]
    words = command if entry is None else entry.command if isinstance(entry, Serves) else entry
    words = project.with_ports(words).replace("{make}", f"make VENV={Path(sys.executable).parents[1]}")
    words = words.replace("{root}", str(ROOT / "tests"))
    if words.startswith("export "):
        project.environment |= dict(pair.split("=", 1) for pair in shlex.split(words)[1:])
        return
    log = project.folder / f"output-{len(project.output)}.log"
    project.output[command] = log
    options: dict[str, Any] = {"cwd": project.folder, "env": project.environment, "stderr": subprocess.STDOUT}
    with log.open("wb") as stream:
        if not isinstance(entry, Serves):
            done = subprocess.run(["bash", "-o", "pipefail", "-c", words], stdout=stream, timeout=guard_s(), **options)
            assert done.returncode == 0, f"{words}\n{project.text_of(command)[-3000:]}"
            return
        process = start(["bash", "-c", f"exec {words}"], stdout=stream, start_new_session=True, **options)
    stack.callback(end, process, command, entry.endings)
    until(lambda: entry.ready(project), f"sign that `{words}` is ready", process)


def end(process: subprocess.Popen[Any], command: str, endings: tuple[int, ...]) -> None:
    """Ctrl-C, which ends it and all that it began."""
    began = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(guard_s()) in endings, command
        assert all_end(began), command
    finally:
        for one in began:
            with contextlib.suppress(psutil.Error):
                one.kill()


def test_every_command_of_readme_is_covered():
    """A new command in README needs an entry in COMMANDS, and none stays behind."""
    assert {command for block in blocks() for command in block} == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("commands", blocks(), ids=lambda commands: commands[0])
def test_the_commands_of_readme_work_one_after_the_other(commands, project):
    with contextlib.ExitStack() as servers:
        for command in commands:
            perform(project, command, servers)
