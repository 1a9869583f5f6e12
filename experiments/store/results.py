"""The results of all points, as Parquet files: the source of truth that MLflow, tables and reports are made from."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.store.files import write_atomically
from sim_core.errors import InputError, nearest

log = logging.getLogger("devops_sim.results")

Columns = Mapping[str, Sequence[Any]]


class ResultStore:
    """Finished points under one folder: one file a batch, and one manifest a sweep.

    A file appears whole or not at all (temporary file, fsync, rename), and its name is a digest of the keys in it, so
    that a batch that runs twice overwrites itself. A point belongs to its key, not to a sweep: what any sweep has
    finished, no other sweep runs again.

    Args:
        root: folder of the store; made by the first write.
    """

    def __init__(self, root: Path):
        self.root = root
        self.points = root / "points"
        self.manifests = root / "sweeps"
        self.quarantine = root / "quarantine"

    def append(self, columns: Columns) -> Path:
        """Stores one finished batch.

        Args:
            columns: equally long columns, among them `key` [str]; one row a point.

        Raises:
            ValueError: no column `key`, or columns of unequal length.
            PlatformError: the file cannot be written (disk full, no permission); nothing of it is left.
        """
        if "key" not in columns:
            raise ValueError(f"a batch needs the column 'key', got {sorted(columns)}")
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        digest = hashlib.sha256("\n".join(sorted(columns["key"])).encode()).hexdigest()[:24]
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        path = self.points / f"{digest}.parquet"
        write_atomically(path, sink.getvalue().to_pybytes(), f"{table.num_rows} finished points")
        return path

    def register(
        self,
        sweep_id: str,
        keys: Sequence[str],
        spec: Mapping[str, Any],
        basis: Mapping[str, Any] | None = None,
        identities: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Writes the manifest of a sweep: its point keys in order, and its specification.

        Args:
            sweep_id: of the sweep.
            keys: of its points.
            spec: as plain data.
            basis: what its points have in common (`Plan.basis`); without it the sweep is comparable with no other.
            identities: `Point.identity` of each key: what this sweep calls a point that another may have run.
        """
        texts = [json.dumps(identity) for identity in identities]
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        content = {
            "sweep_id": sweep_id,
            "registered_s": time.time(),
            "spec": dict(spec),
            "basis": dict(basis) if basis else None,
            "configurations": [json.loads(text) for text in place],
            "keys": list(keys),
            "configuration_of": [place[text] for text in texts],
        }
        text = json.dumps(content, indent=1)
        write_atomically(self.manifests / f"{sweep_id}.json", text.encode(), f"the manifest of {sweep_id}")

    def sweeps(self) -> list[str]:
        """Ids of the registered sweeps, newest first."""
        return sorted((file.stem for file in self.manifests.glob("*.json")), key=self._registered_s, reverse=True)

    def _registered_s(self, sweep_id: str) -> float:
        # Not the time of the file, which `cp -r` makes anew.
        file = self.manifests / f"{sweep_id}.json"
        return float(json.loads(file.read_text()).get("registered_s", file.stat().st_mtime))

    def manifest(self, sweep_id: str) -> dict[str, Any]:
        """`sweep_id`, `spec`, `keys`, `basis` and `configurations` of a registered sweep; older ones lack the last two.

        Raises:
            InputError: no sweep of that id; names the nearest and the newest.
        """
        path = self.manifests / f"{sweep_id}.json"
        if not path.is_file():
            known = self.sweeps()
            newest = f"; newest: {', '.join(known[:5])}" if known else "; no sweep has been run yet"
            raise InputError(f"sweep '{sweep_id}'", f"unknown{nearest(sweep_id, known) or newest}")
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def find(self, name: str | None) -> str:
        """Id of a sweep by its id, by the name of its specification, or None for the newest.

        Raises:
            InputError: there is none; names the nearest.
        """
        known = self.sweeps()
        if name is None:
            if not known:
                raise InputError(
                    str(self.root), "no sweep has been run in this state folder; begin with `devops-sim sweep`"
                )
            return known[0]
        named = [sweep_id for sweep_id in known if name in (sweep_id, sweep_id.rpartition("-")[0])]
        return named[0] if named else str(self.manifest(name)["sweep_id"])

    def finished_keys(self) -> set[str]:
        """Keys of all stored points, of every sweep. Unreadable files are set aside, so that their points run again."""
        keys: set[str] = set()
        for path in self._files():
            table = self._read(path, columns=["key"])
            keys.update(table["key"].to_pylist() if table is not None else ())
        return keys

    def load(self, sweep_id: str) -> pd.DataFrame:
        """Finished points of a registered sweep, in the order of its plan; one row a point.

        A point that another sweep ran is named as this one names it.

        Raises:
            InputError: no sweep of that id.
        """
        manifest = self.manifest(sweep_id)
        rows = self.load_keys(manifest["keys"])
        configurations = manifest.get("configurations")
        if not configurations or rows.empty:
            return rows
        place = dict(zip(manifest["keys"], manifest["configuration_of"], strict=True))
        for name in configurations[0]:
            rows[name] = [configurations[place[key]][name] for key in rows["key"]]
        return rows

    def load_keys(self, keys: Iterable[str]) -> pd.DataFrame:
        """Rows of these keys, in their order; keys without a result are left out."""
        order = {key: position for position, key in enumerate(keys)}
        frames = []
        for path in self._files():
            table = self._read(path)
            if table is not None:
                frame = table.to_pandas()
                frames.append(frame[frame["key"].isin(order.keys())])
        frames = [frame for frame in frames if len(frame)]
        if not frames:
            return pd.DataFrame({"key": pd.Series(dtype=str)})
        rows = pd.concat(frames, ignore_index=True).drop_duplicates("key")
        return rows.sort_values("key", key=lambda column: column.map(order), ignore_index=True)

    def _files(self) -> list[Path]:
        return sorted(self.points.glob("*.parquet"))

    def _read(self, path: Path, columns: list[str] | None = None) -> pa.Table | None:
        try:
            table = pq.ParquetFile(path).read(columns=columns)
            if "key" not in table.column_names:
                raise pa.ArrowInvalid("no column 'key'")
            return table
        except FileNotFoundError:
            return None  # another process set it aside
        except (pa.ArrowException, OSError) as error:
            self.quarantine.mkdir(exist_ok=True)
            aside = self.quarantine / f"{path.stem}-{uuid.uuid4().hex[:8]}.parquet"
            path.rename(aside)
            log.warning("results file %s is damaged (%s): moved to %s; its points run again", path, error, aside)
            return None
