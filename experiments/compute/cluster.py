"""One Ray cluster for the time of a job: loopback only, token-protected, and gone afterwards."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from experiments.compute.ray_address import named_address, reach, use_token
from experiments.store.state import StateDir
from sim_core.errors import PlatformError

log = logging.getLogger("devops_sim.cluster")

OBJECT_STORE_BYTES = 128 * 2**20  # Ray's minimum is 75 MB; traces and columns of numbers are small
START_ATTEMPTS = 3
# An AF_UNIX path holds 107 bytes, and Ray appends /session_<date>_<pid>/sockets/plasma_store (up to 72).
LONGEST_TEMP_PATH = 34
LOOPBACK = ("127.", "::1", "::ffff:127.")


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster: its address, its CPUs, and whether this process started it."""

    address: str
    num_cpus: int
    started_here: bool


@contextlib.contextmanager
def ray_cluster(state: StateDir, num_cpus: int | None = None) -> Iterator[Cluster]:
    """Ray for the `with` block; what was started here, and only that, is ended after it.

    With RAY_ADDRESS set (`host:port`, or `auto`: the last one that `ray start` began here), or when this process is
    connected already, the existing cluster is used and left alone.
    Otherwise a cluster of this process is started: every socket on loopback, token authentication with the state
    folder's own token, no dashboard, no usage statistics, temporary files in a short path that is removed at the end.

    Args:
        state: holds the token file.
        num_cpus: CPUs the cluster may use; by default those this process may run on.

    Raises:
        InputError: RAY_ADDRESS has a form that is not supported.
        PlatformError: Ray does not start, cannot be reached, or would listen beyond loopback.
    """
    existing = named_address()
    import ray

    _log_messages()
    if ray.is_initialized():
        yield _describe(started_here=False)
    elif existing:
        with _connected(existing):
            yield _describe(started_here=False)
    else:
        _prepare(state)
        _end_abandoned(state)
        with _started(state, num_cpus or len(os.sched_getaffinity(0))):
            yield _describe(started_here=True)


def _prepare(state: StateDir) -> None:
    """Token and environment of a cluster of our own, inherited by every process of it; see also `ray_address`."""
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(state.ray_token)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about GPUs of the future
    # Ray's 15 leaves a worker a seventieth of a core that anything else is busy on: a sweep would stand still. Whoever
    # wants it to yield starts it with `nice`, which workers inherit.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # What takes longer on a busy machine is not dead. By default 30 and 60 s, after which the node or the worker is ended.
    os.environ.setdefault("RAY_agent_register_timeout_ms", str(600_000))
    os.environ.setdefault("RAY_worker_register_timeout_seconds", str(600))
    import ray

    use_token()
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()  # it may hold the token of another state folder


def _log_messages() -> None:
    """Ray prints what its daemons report (a worker died) raw and in colours; here it goes to our log instead.

    Nothing is lost: what stops a job also reaches the driver as an exception.
    """
    from ray._private import worker

    worker.print_to_stdstream = _log_message


def _log_message(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    for line in data["lines"]:
        log.info("Ray: %s", re.sub(r"\x1b\[[0-9;]*m", "", str(line)).strip())


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    import ray

    head = reach(address)
    try:
        ray.init(address=head, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise PlatformError(
            f"RAY_ADDRESS={address}: the cluster answers, but this process cannot join it ({_first_line(error)}); "
            "a driver needs a node of the cluster on its own machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()  # disconnects; the cluster goes on


@contextlib.contextmanager
def _started(state: StateDir, num_cpus: int) -> Iterator[None]:
    import ray

    folder = _short_temp_dir()
    record = state.root / "ray" / f"cluster-{os.getpid()}.json"
    before = _descendants()
    try:
        _initialize(folder, num_cpus, before)
        _remember(record, folder, _descendants() - before)
        exposed = listening_beyond_loopback(_descendants() - before)
        if exposed:
            raise PlatformError(
                f"Ray would listen beyond loopback ({', '.join(exposed)}); stopped. Something imported it before "
                "`experiments`: set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 and RAY_AUTH_MODE=token and run again"
            )
        yield
    finally:
        started = _descendants() - before
        ray.shutdown()
        _end(started)
        shutil.rmtree(folder, ignore_errors=True)
        record.unlink(missing_ok=True)


def _initialize(folder: Path, num_cpus: int, before: set[psutil.Process]) -> None:
    """`ray.init`, again where it ran into its own limit of 30 s: on a busy machine the next attempt finds warm files."""
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
            return
        except Exception as error:
            if attempt == START_ATTEMPTS or "timed out" not in str(error):
                raise PlatformError(f"Ray does not start: {_first_line(error)}; its logs were in {folder}") from error
            log.warning("Ray did not start in time (%s); attempt %d", _first_line(error), attempt + 1)
            started = _descendants() - before
            ray.shutdown()
            _end(started)


def _remember(record: Path, folder: Path, processes: set[psutil.Process]) -> None:
    """Notes what has to be ended should this process be killed before it can do so itself."""
    known: dict[str, Any] = {"folder": str(folder), "driver": _identity(psutil.Process()), "processes": []}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            known["processes"].append(_identity(process))
    record.write_text(json.dumps(known))


def _end_abandoned(state: StateDir) -> None:
    """Ends what is left of clusters whose driver was killed (kill -9): Ray's agents outlive it."""
    for record in (state.root / "ray").glob("cluster-*.json"):
        try:
            known = json.loads(record.read_text())
            if _find(known["driver"]) is None:
                _end({process for identity in known["processes"] if (process := _find(identity))})
                shutil.rmtree(known["folder"], ignore_errors=True)
                record.unlink(missing_ok=True)
        except (OSError, ValueError, KeyError) as error:
            log.warning("cannot read %s (%s); if a Ray cluster was killed, its agents may still run", record, error)


def _identity(process: psutil.Process) -> list[float]:
    """A process id alone could have been given to another process since."""
    return [process.pid, process.create_time()]


def _find(identity: list[float]) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(identity[0]))
        if abs(process.create_time() - identity[1]) < 0.01 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _describe(started_here: bool) -> Cluster:
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))
    return Cluster(address=ray.get_runtime_context().gcs_address, num_cpus=max(1, cpus), started_here=started_here)


def _short_temp_dir() -> Path:
    candidates = [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    for parent in candidates:
        if len(os.fsencode(parent)) + len("/ds-12345678") <= LONGEST_TEMP_PATH and os.access(parent, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="ds-", dir=parent))
    raise PlatformError(
        f"Ray's sockets need a writable temporary folder with a path of at most {LONGEST_TEMP_PATH - 12} characters "
        f"(tried {', '.join(dict.fromkeys(candidates))}); set TMPDIR to one"
    )


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def listening_beyond_loopback(processes: set[psutil.Process]) -> list[str]:
    """Addresses, as `host:port`, on which these processes listen and which other machines can reach."""
    exposed = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for found in process.net_connections(kind="inet"):
                if found.status == psutil.CONN_LISTEN and not found.laddr.ip.startswith(LOOPBACK):
                    exposed.append(f"{found.laddr.ip}:{found.laddr.port}")
    return sorted(exposed)


def _end(processes: set[psutil.Process], patience_s: float = 5.0) -> None:
    """Ends what Ray's own shutdown left, by process id."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=patience_s)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
