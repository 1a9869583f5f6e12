"""A state folder that was moved or copied: the addresses of artifacts in MLflow's database follow the folder.

MLflow writes the absolute address of every artifact folder into its database. Left alone, a copied state folder would
write into the original, and a moved one would find nothing. So each experiment carries the address of the folder that
it was last opened in; where that is another one, all its addresses are written anew, in one transaction.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from experiments.store.state import StateDir

FOLDER_TAG = "devops_sim.state_folder"  # of an experiment: address of the state folder that its addresses lie in
_LOCKED_S = 20.0  # as long as MLflow itself waits for a lock
_OF_EXPERIMENT = "experiment_id = :experiment"
# Table, column, and which rows belong to an experiment.
_ADDRESSES = (
    ("experiments", "artifact_location", _OF_EXPERIMENT),
    ("runs", "artifact_uri", _OF_EXPERIMENT),
    ("logged_models", "artifact_location", _OF_EXPERIMENT),
    ("model_versions", "storage_location", f"run_id IN (SELECT run_uuid FROM runs WHERE {_OF_EXPERIMENT})"),
)


def follow_folder(state: StateDir) -> None:
    """Make the addresses in MLflow's database those of this folder; reads one table where they are already.

    Call it before MLflow opens the database. Any number of processes may do so at once, and one that is killed leaves
    the addresses as they were.

    Raises:
        sqlite3.Error: the file is no database, cannot be written, or is locked for too long.
    """
    if not state.mlflow_database.exists():
        return
    here = state.root.as_uri()
    with _connected(state) as database:
        if not _elsewhere(database, here):
            return
        database.execute("BEGIN IMMEDIATE")
        for experiment, former in _elsewhere(database, here):  # asked again: another process may have been quicker
            _rewrite(database, experiment, former, here)
        database.execute("COMMIT")


@contextlib.contextmanager
def _connected(state: StateDir) -> Iterator[sqlite3.Connection]:
    uri = f"{state.mlflow_database.as_uri()}?mode=rw"  # never makes an empty database
    database = sqlite3.connect(uri, uri=True, timeout=_LOCKED_S, isolation_level=None)
    try:
        yield database
    finally:
        database.close()  # rolls back what was not committed


def _elsewhere(database: sqlite3.Connection, here: str) -> list[tuple[int, str]]:
    """Experiments (id, former address) whose addresses lie in another folder than `here`."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiment_tags'").fetchone():
        return []  # MLflow has not made its tables yet
    query = "SELECT experiment_id, value FROM experiment_tags WHERE key = ? AND value <> ?"
    return database.execute(query, (FOLDER_TAG, here)).fetchall()


def _rewrite(database: sqlite3.Connection, experiment: int, former: str, here: str) -> None:
    values = {"experiment": experiment, "former": former, "here": here, "tag": FOLDER_TAG}
    for table, column, rows in _ADDRESSES:
        database.execute(
            f"UPDATE {table} SET {column} = :here || substr({column}, length(:former) + 1) "
            f"WHERE {rows} AND substr({column}, 1, length(:former) + 1) = :former || '/'",
            values,
        )
    database.execute(
        "UPDATE experiment_tags SET value = :here WHERE experiment_id = :experiment AND key = :tag", values
    )
