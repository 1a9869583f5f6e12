"""Ray: actors that die lose nothing, a training survives its process, and a cluster leaves nothing behind."""

import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import ray

from experiments.compute.actors import plan_pool, run_batch, simulation_pool, wait_for_cpus
from experiments.compute.cluster import Cluster, listening_beyond_loopback, ray_cluster
from experiments.planning.plan import Plan, make_plan
from experiments.planning.spec import spec_from_dict
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from experiments.training.actor import read_progress, run_training, training_actor
from sim_core.errors import PlatformError, SpecError
from tests.waiting import guard_s, start, until

HOUR_S = 3600  # for what waits to be ended

SMALL = {
    "name": "small",
    "profile": "production",
    "traffic": {"generator": "diurnal", "scale_peak_to_replicas": 10},
    "duration": "10m",
    "seeds": {"count": 4},
    "policies": [{"policy": "static", "replicas": [8, 12]}, {"policy": "hpa", "target_cpu_utilization_pct": [50, 70]}],
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with ray_cluster(StateDir.open(tmp_path_factory.mktemp("state")), num_cpus=2) as running:
        yield running


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(spec_from_dict(SMALL))


# --- what actors run in these tests, beside the simulator


def simulate_after_being_killed_once(folder: Path, points, trace, profiles):
    """Leaves its process id, and waits to be killed unless that has happened."""
    if not (folder / "killed").exists():
        (folder / "pid.tmp").write_text(str(os.getpid()))
        (folder / "pid.tmp").replace(folder / "pid")
        time.sleep(HOUR_S)
    return run_batch(points, trace, profiles)


def fail_as_a_user_mistake(points, trace, profiles):
    raise SpecError("somewhere", ["first: wrong", "second: wrong"])


def die(points, trace, profiles):
    os._exit(1)


def no_work(points, trace, profiles):
    """A unit that costs nothing: what is left is the platform."""
    rows = [point.row() for point in points]
    return {name: [row[name] for row in rows] for name in rows[0]} | {"cost_usd": [1.0] * len(points)}


def tell_niceness(points, trace, profiles):
    return {"niceness": [os.nice(0)] * len(points)}


def note_call(path: Path, points, trace, profiles):
    with path.open("a") as file:
        file.write(".")
    return no_work(points, trace, profiles)


def count_up(request: dict, on_progress, should_stop) -> dict:
    """A training that has a checkpoint every 10 steps and can be told to wait at a step to be killed."""
    folder = Path(request["folder"])
    checkpoint = folder / "checkpoint"
    begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
    (folder / "starts").open("a").write(f"{begin}\n")
    for step in range(begin + 1, request["steps"] + 1):
        on_progress([{"step": step, "rollout/ep_rew_mean": float(step**2)}])
        if step % 10 == 0:
            checkpoint.write_text(str(step))
        if step == request.get("killed_at") and begin == 0:
            (folder / "pid.tmp").write_text(str(os.getpid()))
            (folder / "pid.tmp").replace(folder / "pid")
            time.sleep(HOUR_S)
        if should_stop():
            return {"stopped_at": step}
        time.sleep(request.get("step_s", 0.0))
    return {"sum": sum(range(request["steps"] + 1))}


def fail_to_train(request, on_progress, should_stop):
    on_progress([{"step": 1}])
    raise SpecError("train", "steps: must be at least 1 (got 0)")


# --- cluster


def test_nothing_listens_beyond_loopback(cluster):
    children = set(psutil.Process().children(recursive=True))
    listening = [
        socket
        for child in children
        for socket in child.net_connections(kind="inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3  # else the next line could not fail: gcs, raylet, workers
    assert listening_beyond_loopback(children) == []
    assert cluster.started_here
    assert cluster.num_cpus == 2


def test_a_socket_on_all_interfaces_is_noticed():
    script = "import socket; s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen(); print(1, flush=True); s.accept()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        exposed = listening_beyond_loopback({psutil.Process(child.pid)})
        child.kill()
    assert len(exposed) == 1
    assert exposed[0].startswith("0.0.0.0:")


def test_a_cluster_that_runs_already_is_used_and_left_alone(cluster, tmp_path):
    with ray_cluster(StateDir.open(tmp_path)) as again:
        assert not again.started_here
        assert again.address == cluster.address
    assert ray.is_initialized()


CLUSTER_SCRIPT = """
import sys, time
import psutil
from experiments.compute.cluster import ray_cluster
from experiments.store.state import StateDir
try:
    with ray_cluster(StateDir.open(sys.argv[1]), num_cpus=1) as cluster:
        import ray
        folder = ray._private.worker._global_node.get_session_dir_path() if cluster.started_here else "-"
        ids = [child.pid for child in psutil.Process().children(recursive=True)]
        print(cluster.started_here, folder, *ids, flush=True)
        time.sleep(float(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_actors_yield_to_others_as_much_as_their_driver_and_no_more(cluster, plan):
    """Workers of a cluster as Ray starts it get a seventieth of a core that another process of the driver's kind is on."""
    with simulation_pool(plan.trace, plan.profiles, 1, tell_niceness) as pool:
        assert set(pool.run_batch(plan.points)["niceness"]) == {os.nice(0)}


def test_ctrl_c_ends_every_process_that_was_started(tmp_path):
    command = [sys.executable, "-c", CLUSTER_SCRIPT, str(tmp_path), str(HOUR_S)]
    with start(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as driver:
        started, folder, *ids = driver.stdout.readline().split()
        assert started == "True"
        assert len(ids) >= 4
        os.killpg(driver.pid, signal.SIGINT)  # the terminal sends it to the whole group
        assert driver.wait(guard_s()) == 130
    assert [pid for pid in map(int, ids) if psutil.pid_exists(pid)] == []
    assert not Path(folder).parent.exists()


SLOW_START = """
import sys
import psutil
import ray
init, attempts = ray.init, []

def slow(*args, **options):
    init(*args, **options)
    attempts.append([child.pid for child in psutil.Process().children(recursive=True)])
    if len(attempts) <= int(sys.argv[3]):
        raise Exception("The current node timed out during startup.")

ray.init = slow
"""
WHAT_IS_LEFT = """
finally:
    print("left", sum(map(psutil.pid_exists, attempts[0])), "of", len(attempts[0]), len(attempts))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("timeouts", "message"), [(1, ""), (3, "Ray does not start: The current node timed out")])
def test_a_start_that_ran_into_its_limit_is_tried_again_and_leaves_nothing(tmp_path, timeouts, message):
    """On a busy machine Ray's own limit of 30 s is too short; what the attempt started must not stay beside the next."""
    script = SLOW_START + CLUSTER_SCRIPT + WHAT_IS_LEFT
    command = [sys.executable, "-c", script, str(tmp_path), "0", str(timeouts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=guard_s())
    assert (done.returncode == 0) == (message == ""), done.stderr
    assert message in done.stderr
    left, started, attempts = re.search(r"left (\d+) of (\d+) (\d+)", done.stdout).groups()
    assert (int(left), int(attempts)) == (0, min(timeouts + 1, 3))
    assert int(started) >= 3
    assert [path.name for path in (tmp_path / "ray").iterdir()] == ["token"]


def test_what_a_killed_job_left_is_ended_by_the_next_one(tmp_path):
    """kill -9 leaves Ray's agents and its temporary folder."""
    command = [sys.executable, "-c", CLUSTER_SCRIPT, str(tmp_path), str(HOUR_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        _, folder, *ids = driver.stdout.readline().split()
        driver.kill()
    assert Path(folder).parent.exists()
    subprocess.run([*command[:-1], "0"], check=True, timeout=guard_s(), stdout=subprocess.DEVNULL)
    assert [pid for pid in map(int, ids) if psutil.pid_exists(pid)] == []
    assert not Path(folder).parent.exists()
    assert [path.name for path in (tmp_path / "ray").iterdir()] == ["token"]


def test_the_cluster_at_ray_address_outlives_the_job(cluster, tmp_path):
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-c", CLUSTER_SCRIPT, str(tmp_path), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=guard_s(), env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "False"
    assert ray.get(ray.put(1)) == 1


# --- simulation


def test_a_point_has_the_same_result_in_any_actor_and_any_batch(cluster, plan):
    alone = pd.DataFrame(run_batch(plan.points, plan.trace, plan.profiles)).set_index("key").drop(columns="compute_s")
    with plan_pool(plan, actors=2) as pool:
        assert pool.size == 2
        columns = list(pool.run(plan.batches(workers=2, lanes=3)))
    together = pd.concat(map(pd.DataFrame, columns)).set_index("key").drop(columns="compute_s").loc[alone.index]
    pd.testing.assert_frame_equal(together, alone, check_exact=True)
    assert alone["cost_usd"].min() > 0.0
    assert alone["slo_attainment"].between(0.0, 1.0).all()


def test_an_actor_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing(cluster, plan, tmp_path):
    store = ResultStore(tmp_path / "results")
    batches = plan.batches(workers=2, lanes=4)
    run = functools.partial(simulate_after_being_killed_once, tmp_path)
    killed: list[int] = []

    def kill() -> None:
        pid = int(until((tmp_path / "pid").exists, "process id") and (tmp_path / "pid").read_text())
        (tmp_path / "killed").write_text("")
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    with simulation_pool(plan.trace, plan.profiles, actors=1, run=run) as pool:
        for columns in pool.run(batches):
            store.append(columns)
    killer.join()
    assert len(killed) == 1
    stored = [key for file in store.points.glob("*.parquet") for key in pd.read_parquet(file)["key"]]
    assert sorted(stored) == sorted(plan.keys)
    assert plan.pending(store.finished_keys()) == []


def test_an_interrupted_sweep_resumes_with_what_is_missing(cluster, plan, tmp_path):
    store = ResultStore(tmp_path)
    with simulation_pool(plan.trace, plan.profiles, actors=2, run=no_work) as pool:
        for columns in itertools.islice(pool.run(plan.batches(workers=2, lanes=2)), 3):
            store.append(columns)
        left = plan.batches(store.finished_keys(), workers=2, lanes=2)
        assert sum(map(len, left)) == len(plan.points) - 6
        for columns in pool.run(left):
            store.append(columns)
    assert store.load_keys(plan.keys)["key"].tolist() == plan.keys


def test_threads_share_the_actors_of_a_pool(cluster, plan):
    results: list[dict] = []
    with simulation_pool(plan.trace, plan.profiles, actors=2, run=no_work) as pool:
        threads = [
            threading.Thread(target=lambda batch=batch: results.append(pool.run_batch(batch)))
            for batch in plan.batches(lanes=2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(key for columns in results for key in columns["key"]) == sorted(plan.keys)


def test_a_mistake_in_the_simulation_keeps_its_type_and_text(cluster, plan):
    with (
        simulation_pool(plan.trace, plan.profiles, actors=1, run=fail_as_a_user_mistake) as pool,
        pytest.raises(SpecError) as caught,
    ):
        pool.run_batch(plan.points)
    assert caught.value.problems == ["first: wrong", "second: wrong"]


@pytest.mark.slow
def test_an_actor_that_always_dies_is_a_platform_error_not_a_hang(cluster, plan):
    with (
        simulation_pool(plan.trace, plan.profiles, actors=1, run=die) as pool,
        pytest.raises(PlatformError, match=r"died 4 times .*run the same command again to resume"),
    ):
        pool.run_batch(plan.points)


def test_more_actors_than_cpus_never_wait_for_each_other(cluster, plan):
    """Ray would wait for ever, without an error."""
    with simulation_pool(plan.trace, plan.profiles, actors=8, run=no_work) as pool:
        assert pool.size == 2
        with pytest.raises(PlatformError, match="none of the 2 CPUs of Ray is free"):
            wait_for_cpus(1, patience_s=0.2)
    assert wait_for_cpus(2) == 2  # given back


def test_the_platform_does_little_for_a_point(cluster, tmp_path, monkeypatch):
    """200 points take one call of an actor and one file for each 64 lanes or fewer, and trace and profiles go out once."""
    spec = spec_from_dict(SMALL | {"seeds": {"count": 50}})
    store, put = ResultStore(tmp_path), []
    monkeypatch.setattr(
        "experiments.compute.actors.ray.put", lambda value, put=put, real=ray.put: put.append(value) or real(value)
    )
    plan = make_plan(spec)
    batches = plan.batches(store.finished_keys(), workers=2, lanes=64)
    store.register(plan.sweep_id, plan.keys, spec.to_dict())
    run = functools.partial(note_call, tmp_path / "calls")
    with simulation_pool(plan.trace, plan.profiles, actors=2, run=run) as pool:
        for columns in pool.run(batches):
            store.append(columns)
    assert len(store.load(plan.sweep_id)) == 200
    assert len(batches) <= 8
    assert (tmp_path / "calls").read_text() == "." * len(batches)
    assert len(list(store.points.glob("*"))) == len(batches)
    assert len(put) == 2


# --- training


def test_a_training_hands_over_every_row_and_its_result(cluster, tmp_path):
    rows: list[dict] = []
    result = run_training({"folder": str(tmp_path), "steps": 35}, tmp_path, rows.extend, poll_s=0.05, train=count_up)
    assert result == {"sum": 630}
    assert [row["step"] for row in rows] == list(range(1, 36))
    assert read_progress(tmp_path / "progress.jsonl") == rows


def test_a_killed_training_resumes_from_its_checkpoint_and_repeats_no_row(cluster, tmp_path):
    request = {"folder": str(tmp_path), "steps": 40, "killed_at": 25}
    rows: list[dict] = []

    def kill() -> None:
        until((tmp_path / "pid").exists, "process id")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = run_training(request, tmp_path, rows.extend, poll_s=0.05, train=count_up)
    killer.join()
    assert result == {"sum": 820}
    assert (tmp_path / "starts").read_text().split() == ["0", "20"]
    assert [row["step"] for row in rows] == list(range(1, 41))


def test_a_training_on_a_long_trace_makes_ray_say_nothing(tmp_path):
    """Ray keeps arguments of more than 100 kB apart, and warns, once a process, where a restart could lose them."""
    code = (
        "import numpy, sys; from pathlib import Path; from experiments.compute.cluster import ray_cluster;"
        "from experiments.store.state import StateDir; from experiments.training.actor import run_training;"
        "from tests.test_actors import count_up; folder = Path(sys.argv[1]);"
        "request = {'folder': sys.argv[1], 'steps': 3, 'trace': numpy.zeros(100_000)};"
        "state = StateDir.open(folder / 'state')\n"
        "with ray_cluster(state, num_cpus=1):\n"
        "    print(run_training(request, folder, lambda rows: None, poll_s=0.05, train=count_up))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("{'sum': 6}\n", "")


def test_a_training_can_be_stopped(cluster, tmp_path):
    rows: list[dict] = []
    request = {"folder": str(tmp_path), "steps": 10_000, "step_s": 0.01}
    result = run_training(request, tmp_path, rows.extend, lambda: len(rows) > 5, poll_s=0.05, train=count_up)
    assert 5 < result["stopped_at"] < 10_000


def test_a_mistake_in_the_training_keeps_its_type(cluster, tmp_path):
    rows: list[dict] = []
    with pytest.raises(SpecError, match="steps: must be at least 1"):
        run_training({}, tmp_path, rows.extend, poll_s=0.05, train=fail_to_train)
    assert rows == [{"step": 1}]


def test_the_cpu_of_a_training_is_free_afterwards(cluster, tmp_path):
    with training_actor(tmp_path, count_up):
        pass
    assert wait_for_cpus(2) == 2


def test_a_progress_line_cut_off_by_a_crash_is_dropped(tmp_path):
    file = tmp_path / "progress.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_progress(file) == [{"step": 1}, {"step": 2}]
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert read_progress(tmp_path / "none") == []


def test_simulation_actors_load_no_learning_or_tracking_library():
    script = (
        "import sys, experiments.compute.actors; print([m for m in ('torch', 'mlflow', 'prefect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=guard_s())
    assert done.stdout.strip() == "[]", done.stderr


DIES_ONCE = """
import logging, os, sys, threading
from pathlib import Path
import numpy as np
from experiments.compute.actors import simulation_pool
from experiments.compute.cluster import ray_cluster
from experiments.store.state import StateDir
from sim_core.workload import Trace

folder, heard = Path(sys.argv[1]), threading.Event()


class Hears(logging.Handler):
    def emit(self, record):
        if "worker died" in record.getMessage():
            heard.set()


log = logging.getLogger("devops_sim.cluster")
log.setLevel(logging.INFO)
log.addHandler(Hears())
log.propagate = False


def run(points, trace, profiles):
    if not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(1)
    return {"key": points}


with ray_cluster(StateDir.open(folder / "state"), 1):
    with simulation_pool(Trace("flat", 60.0, np.ones(2)), {}, 1, run) as pool:
        assert pool.run_batch(["a"]) == {"key": ["a"]}
        assert heard.wait(60)  # what Ray says of it comes later, by another way
print("done")
"""


def test_what_ray_says_of_a_dead_worker_goes_to_our_log_and_not_to_the_terminal(tmp_path):
    """Ray prints it itself, in colours, terminal or not; an actor that is started again is no news for a user."""
    command = [sys.executable, "-c", DIES_ONCE, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=guard_s())
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
