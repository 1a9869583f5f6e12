"""RAY_ADDRESS: clusters begun with `ray start` as users type it, and what is said where one cannot be joined."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import yaml
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from experiments.compute.ray_address import host_and_port, reach
from experiments.planning.plan import make_plan
from experiments.planning.spec import load_spec
from experiments.store.results import ResultStore
from flows.servers.processes import free_port
from sim_core.errors import InputError, PlatformError
from tests.waiting import guard_s, until

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
TOKEN, OTHER_TOKEN = "a" * 64, "b" * 64
PROMISE_S = 15.0
MACHINE = "198.51.100.7"  # an address for documentation (RFC 5737), inside a network namespace of its own
NAMESPACE = f"ip link set lo up && ip address add {MACHINE}/32 dev lo && ip route add default dev lo src {MACHINE}"

DRIVER = """
import importlib, json, sys, time
import experiments, ray
from experiments.compute.cluster import ray_cluster
from experiments.store.state import StateDir
began_s = time.monotonic()
try:
    with ray_cluster(StateDir.open(sys.argv[1])) as cluster:
        actors = ray.get(ray.remote(importlib.import_module).remote("experiments.compute.actors"), timeout=600).__name__
        print(json.dumps({"address": cluster.address, "started_here": cluster.started_here, "imported": actors}))
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - began_s}))
"""

pytestmark = pytest.mark.timeout(3600)


def environment(**changes: str) -> dict[str, str]:
    dropped = ("RAY_", "PREFECT_", "MLFLOW_TRACKING_URI", "DEVOPS_SIM_HOME")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)} | changes


@dataclass(frozen=True)
class Head:
    """A cluster that `ray start` began, and how to get into its network."""

    port: int
    tmp: Path
    process: subprocess.Popen[bytes]
    enter: tuple[str, ...] = ()

    def drive(self, folder: Path, address: str, **changes: str) -> dict[str, Any]:
        """What a driver with this RAY_ADDRESS finds; of Ray's other variables it has only those given."""
        variables = environment(RAY_ADDRESS=address, RAY_TMPDIR=str(self.tmp), HOME=str(folder), **changes)
        command = [*self.enter, sys.executable, "-c", DRIVER, str(folder / "state")]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=guard_s())
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


@contextlib.contextmanager
def ray_start(variables: dict[str, str], *options: str, wrapper: tuple[str, ...] = ()) -> Iterator[Head]:
    """`ray start` in the foreground, so that it and what it began end with its process group."""
    tmp, port = Path(tempfile.mkdtemp(prefix="ds-", dir="/tmp")), free_port()
    words = [RAY, "start", "--head", "--block", "--port", str(port), "--node-ip-address", "127.0.0.1"]
    words += ["--num-cpus", "2", "--object-store-memory", "100000000", *options]
    log = tmp / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*wrapper, *words],
            env=environment(RAY_TMPDIR=str(tmp), HOME=str(tmp), **variables),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        until(lambda: b"Ray runtime started" in log.read_bytes(), "head", process)
        yield Head(port, tmp, process)
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs([psutil.Process(process.pid), *started], timeout=guard_s())
        for one in alive:
            one.kill()
        process.wait()
        shutil.rmtree(tmp, ignore_errors=True)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Head]:
    """A head with a token that keeps to loopback."""
    with ray_start(
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        "--include-dashboard=false",
    ) as head:
        yield head


@pytest.fixture(scope="module")
def plain() -> Iterator[Head]:
    """A head as most type it: no token, and it listens on the machine's address. In a network of its own."""
    wrapper = ("unshare", "--net", "bash", "-c", f'{NAMESPACE} && exec "$0" "$@"')
    if shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs a network namespace, so that the open cluster cannot be reached (unshare, ip, root)")
    with ray_start({}, "--include-dashboard=false", wrapper=wrapper) as head:
        enter = ("nsenter", f"--net=/proc/{head.process.pid}/ns/net")
        yield Head(head.port, head.tmp, head.process, enter)


# --- joining


@pytest.mark.parametrize("address", ["localhost:{port}", "127.0.0.1:{port}", "auto"])
def test_a_cluster_on_loopback_with_a_token_is_joined(guarded, tmp_path, address):
    """The driver needs the address and the token, and no other variable."""
    joined = guarded.drive(tmp_path, address.format(port=guarded.port), RAY_AUTH_TOKEN=TOKEN)
    expected = {"address": f"127.0.0.1:{guarded.port}", "started_here": False, "imported": "experiments.compute.actors"}
    assert joined == expected


@pytest.mark.parametrize("address", ["localhost:{port}", MACHINE + ":{port}", "auto"])
def test_a_cluster_on_the_machines_address_without_a_token_is_joined(plain, tmp_path, address):
    """127.0.0.1 stands for the machine's address here: from other nodes the driver must be reachable at that."""
    joined = plain.drive(tmp_path, address.format(port=plain.port))
    expected = {"address": f"{MACHINE}:{plain.port}", "started_here": False, "imported": "experiments.compute.actors"}
    assert joined == expected


def test_a_token_file_of_the_user_is_found(guarded, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    assert not guarded.drive(tmp_path, f"localhost:{guarded.port}")["started_here"]


def test_ray_address_local_is_a_protected_cluster_of_ones_own(tmp_path):
    """As without the variable: with a token, and nothing beyond loopback, which would be a PlatformError."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    done = subprocess.run(
        command, env=environment(RAY_ADDRESS="local"), capture_output=True, text=True, timeout=guard_s()
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["started_here"]
    assert (tmp_path / "ray" / "token").exists()


# --- what is wrong


@pytest.mark.parametrize(
    ("variables", "words"),
    [({}, "token missing: the cluster asks for one"), ({"RAY_AUTH_TOKEN": OTHER_TOKEN}, "wrong token: the cluster")],
)
def test_a_token_that_is_missing_or_wrong_is_said(guarded, tmp_path, variables, words):
    refused = guarded.drive(tmp_path, f"localhost:{guarded.port}", **variables)
    assert f"PlatformError: RAY_ADDRESS=localhost:{guarded.port}: {words}" in refused["error"]
    assert "RAY_AUTH_TOKEN" in refused["error"]
    assert TOKEN not in refused["error"] and OTHER_TOKEN not in refused["error"]
    assert refused["seconds"] < PROMISE_S


def test_a_port_where_nothing_listens_is_said():
    with pytest.raises(PlatformError, match=r"RAY_ADDRESS=127\.0\.0\.1:\d+: wrong address: .*connection refused"):
        reach(f"127.0.0.1:{free_port()}")


def test_a_port_where_something_else_listens_is_said():
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(PlatformError, match="wrong address: what listens there is not the head of a Ray"):
                reach(f"localhost:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def test_a_port_that_never_answers_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        with pytest.raises(PlatformError, match="wrong address: no answer within 5 s"):
            reach(f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - began_s < PROMISE_S


@pytest.mark.parametrize(
    ("theirs", "fits"), [(("1.13.0", None), False), ((None, "3.9.1"), False), ((None, None), True)]
)
def test_a_cluster_of_another_version_is_said(theirs, fits):
    """A head that answers as Ray's does, but for the versions that it states."""
    import platform

    import ray

    versions = {"ray_version": theirs[0] or ray.__version__, "python_version": theirs[1] or platform.python_version()}

    class Metadata(gcs_service_pb2_grpc.InternalKVGcsServiceServicer):
        def InternalKVGet(self, request, context):
            assert (request.namespace, request.key) == (b"cluster", b"CLUSTER_METADATA")
            return gcs_service_pb2.InternalKVGetReply(value=json.dumps(versions).encode())

    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_InternalKVGcsServiceServicer_to_server(Metadata(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        if fits:
            assert reach(f"localhost:{port}") == f"localhost:{port}"
        else:
            stated = f"Ray {versions['ray_version']} on Python {versions['python_version']}"
            with pytest.raises(PlatformError, match=f"wrong version: the cluster runs {stated}, here is Ray"):
                reach(f"localhost:{port}")
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://127.0.0.1:10001", "Ray Client is not supported"),
        ("http://127.0.0.1:8265", "address of the dashboard"),
        ("6379", "no address of a cluster"),
        ("head:", "no address of a cluster"),
        ("head:99999", "no address of a cluster"),
    ],
)
def test_a_form_that_is_not_supported_is_said_with_those_that_are(address, words):
    with pytest.raises(InputError, match=words) as refused:
        host_and_port(address)
    assert "HOST:PORT" in str(refused.value) and "auto, or local" in str(refused.value)


def test_auto_without_a_cluster_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(PlatformError, match="no cluster was started here with `ray start`"):
        host_and_port("auto")


def test_an_address_of_ipv6_keeps_its_brackets():
    assert host_and_port("[::1]:6379") == ("::1", 6379)


# --- jobs


@pytest.mark.slow
def test_a_sweep_is_submitted_as_a_job_of_a_cluster(tmp_path):
    """Ray's dashboard takes it, Prefect and Ray run it, and its results lie in the state folder."""
    spec = {
        "name": "job",
        "profile": "development",
        "traffic": {"generator": "diurnal", "seed": 3, "scale_peak_to_replicas": 3},
        "duration": "20m",
        "seeds": {"count": 2},
        "policies": [{"policy": "static", "replicas": [2, 3]}],
    }
    path, home, dashboard = tmp_path / "job.yaml", tmp_path / "state", free_port()
    path.write_text(yaml.safe_dump(spec))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    # The agent that takes jobs has a usual port, which another head on this machine may have.
    options = ("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard))
    options += ("--dashboard-agent-listen-port", str(free_port()))
    with ray_start(token | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}, *options) as head:
        sweep = [sys.executable, "-m", "flows.cli", "sweep", str(path), "--state", str(home)]
        command = [RAY, "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--", *sweep]
        variables = environment(HOME=str(head.tmp), **token)

        def submitted() -> subprocess.CompletedProcess[str] | None:
            done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=guard_s())
            return None if "No available agent" in done.stderr + done.stdout else done

        done = until(submitted, "agent that takes jobs")  # it starts after the head
        if done.returncode != 0:  # the first job after a start is sometimes lost
            done = submitted()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "4 points simulated" in done.stdout
    assert set(make_plan(load_spec(path)).keys) == ResultStore(home / "results").finished_keys()
