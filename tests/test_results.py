"""The state folder and the Parquet store: whole files or none, damaged files set aside, finished points kept."""

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from sim_core.errors import InputError, PlatformError
from tests.waiting import guard_s


def batch(*keys: str, cost_usd: float = 1.0) -> dict[str, list]:
    return {"key": list(keys), "configuration_key": ["c"] * len(keys), "cost_usd": [cost_usd] * len(keys)}


# --- state folder


def test_state_folder_is_private_and_complete(tmp_path):
    state = StateDir.open(tmp_path / "new" / "state")
    assert stat.S_IMODE(state.root.stat().st_mode) == 0o700
    assert all(
        path.is_dir() for path in (state.artifacts, state.results, state.prefect, state.reports, state.checkpoints)
    )
    assert state.mlflow_uri == f"sqlite:///{state.root}/mlflow.db"


def test_state_folder_comes_from_the_argument_then_the_environment_then_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEVOPS_SIM_HOME", raising=False)
    assert StateDir.open().root == tmp_path / ".devops-sim"
    monkeypatch.setenv("DEVOPS_SIM_HOME", str(tmp_path / "home"))
    assert StateDir.open().root == tmp_path / "home"
    assert StateDir.open(tmp_path / "named").root == tmp_path / "named"


def test_state_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"is a file, a folder is needed; name a writable folder with --state"):
            StateDir.open(path)


def test_state_folder_that_cannot_be_written_is_refused_and_nothing_is_left():
    """/proc refuses new folders to every user, root too."""
    with pytest.raises(InputError, match=r"state folder /proc/devops-sim/state: .*DEVOPS_SIM_HOME"):
        StateDir.open("/proc/devops-sim/state")
    assert not Path("/proc/devops-sim").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_state_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no permission to write"):
        StateDir.open(tmp_path / "state")
    tmp_path.chmod(0o700)


def test_ray_token_is_private_and_stays_the_same(tmp_path):
    state = StateDir.open(tmp_path)
    token = state.ray_token.read_text()
    assert stat.S_IMODE(state.ray_token.stat().st_mode) == 0o600
    assert len(token) == 64
    state.ray_token.chmod(0o644)
    assert state.ray_token.read_text() == token
    assert stat.S_IMODE(state.ray_token.stat().st_mode) == 0o600


# --- store


def test_what_is_appended_is_finished_and_comes_back_in_the_order_of_the_plan(tmp_path):
    store = ResultStore(tmp_path)
    store.append(batch("b", "a", cost_usd=1.5))
    store.append(batch("d", "c", cost_usd=2.5))
    store.register("sweep-1", ["a", "c", "b", "missing"], {"name": "sweep"})
    again = ResultStore(tmp_path)
    assert again.finished_keys() == {"a", "b", "c", "d"}
    rows = again.load("sweep-1")
    assert rows["key"].tolist() == ["a", "c", "b"]
    assert rows["cost_usd"].tolist() == [1.5, 2.5, 1.5]
    assert again.manifest("sweep-1")["spec"] == {"name": "sweep"}


def test_a_batch_that_runs_twice_is_stored_once(tmp_path):
    store = ResultStore(tmp_path)
    assert store.append(batch("a", "b")) == store.append(batch("b", "a"))
    store.append(batch("b", "c"))  # packed differently, as after a resume with other actors
    assert store.load_keys(["a", "b", "c"])["key"].tolist() == ["a", "b", "c"]
    assert len(list(store.points.iterdir())) == 2


def test_empty_store_and_unknown_sweep(tmp_path):
    store = ResultStore(tmp_path)
    assert store.finished_keys() == set()
    assert store.load_keys(["a"]).empty
    with pytest.raises(InputError, match="no sweep has been run yet"):
        store.load("demo-1")
    store.register("demo-12345", [], {})
    with pytest.raises(InputError, match="did you mean 'demo-12345'"):
        store.load("demo-1234")


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "other columns"])
def test_damaged_file_is_set_aside_with_a_warning_and_its_points_run_again(tmp_path, caplog, damage):
    store = ResultStore(tmp_path)
    store.append(batch("good"))
    path = store.append(batch("bad"))
    content = path.read_bytes()
    damaged = {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"PAR1" + bytes(100) + b"PAR1"}
    if damage == "other columns":
        import pandas as pd

        pd.DataFrame({"x": [1]}).to_parquet(path)
    else:
        path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        assert store.finished_keys() == {"good"}
    assert "its points run again" in caplog.text
    assert len(list(store.quarantine.iterdir())) == 1
    store.append(batch("bad"))
    assert store.finished_keys() == {"good", "bad"}


def test_damaged_file_is_set_aside_when_rows_are_loaded_too(tmp_path):
    store = ResultStore(tmp_path)
    store.append(batch("good"))
    path = store.append(batch("bad"))
    path.write_bytes(path.read_bytes()[:-20])
    assert store.load_keys(["good", "bad"])["key"].tolist() == ["good"]


def test_a_writer_killed_before_the_rename_leaves_no_result(tmp_path):
    """What is left is a temporary file, which no reader looks at."""
    store = ResultStore(tmp_path)
    path = store.append(batch("a"))
    path.rename(path.with_name(f".{path.name}.0123.tmp"))
    assert store.finished_keys() == set()


def test_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path):
    """A file size limit of the operating system makes write() fail as a full disk does."""
    script = f"""
import resource, sys
from pathlib import Path
from experiments.store.results import ResultStore
from sim_core.errors import PlatformError
store = ResultStore(Path({str(tmp_path)!r}))
store.append({{"key": ["before"]}})
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    store.append({{"key": ["after"]}})
except PlatformError as error:
    print(error)
    sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=guard_s())
    assert done.returncode == 3, done.stderr
    assert "cannot store 1 finished points" in done.stdout
    assert "File too large; make room" in done.stdout
    store = ResultStore(tmp_path)
    assert store.finished_keys() == {"before"}
    assert len(list(store.points.iterdir())) == 1


def test_store_that_cannot_be_written_says_so(tmp_path):
    store = ResultStore(tmp_path)
    store.points.write_text("a file where the folder should be")
    with pytest.raises(PlatformError, match="cannot store 1 finished points"):
        store.append(batch("a"))


def test_batches_without_keys_or_of_unequal_length_are_our_mistake(tmp_path):
    store = ResultStore(tmp_path)
    with pytest.raises(ValueError, match="needs the column 'key'"):
        store.append({"cost_usd": [1.0]})
    with pytest.raises(ValueError):
        store.append({"key": ["a", "b"], "cost_usd": [1.0]})
