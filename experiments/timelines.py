"""The time series of single lanes as one Parquet file, a row a policy, seed and step; and other tables as files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from sim_core.profile import Profile
    from sim_core.simulation import Simulation

OPTION, STEP_OPTION = "--timeline", "--timeline-step"


def check_place(path: Path, option: str = OPTION, endings: Sequence[str] = (".parquet",)) -> None:
    """Refuse a file that could not be written, before anything is simulated.

    Args:
        option: that named it, for the message.
        endings: that it may have.

    Raises:
        InputError: another ending, a folder, or no folder that may be written to.
    """
    folder = path.absolute().parent
    problem = None
    if path.suffix not in endings:
        problem = f"must end in {' or '.join(endings)} (got {path.name!r})"
    elif path.is_dir():
        problem = "is a folder; name a file in it"
    elif not folder.is_dir():
        problem = f"cannot be written: there is no folder '{folder}'; make it first"
    elif not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        problem = "cannot be written: no permission; choose another place"
    if problem:
        raise InputError(f"{option} {path}", problem)


def write_table(path: Path, table: pd.DataFrame, option: str) -> None:
    """Write a table as Parquet or, where the name ends so, as CSV; the file appears whole or not at all.

    Args:
        path: see `check_place`.
        option: that named it, for the message.

    Raises:
        InputError: it cannot be written after all, as when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{option} {path}", f"cannot be written: {error.strerror or error}") from error


def check_step(step_s: float, profile: Profile, duration_s: float) -> None:
    """Refuse a step at which a timeline cannot be recorded.

    Raises:
        InputError: no multiple of the controller's sync period (where policies decide), or longer than what is played.
    """
    period_s = profile.controller.sync_period_seconds
    if step_s > duration_s or abs(step_s / period_s - round(step_s / period_s)) > 1e-9 or step_s < period_s:
        rule = f"must be a multiple of the controller's sync period, {period_s:g} s, and no longer than --duration"
        raise InputError(STEP_OPTION, f"{rule} (got {step_s:g} s)")


def write_timeline(path: Path, played: Mapping[str, Simulation], seeds: Sequence[int], services: Sequence[str]) -> None:
    """Write the timelines of lanes; the file appears whole or not at all.

    Columns: `policy`, `seed`, those of `Simulation.timeline`, and for each service those of `Simulation.service_timeline`
    as `services.NAME.COLUMN`. Means are over the step that ends at `time_s` [s from --start]; NaN is null.

    Args:
        path: see `check_place`.
        played: with timelines, by policy.
        seeds: of the lanes.
        services: names, in call order.

    Raises:
        InputError: it cannot be written after all, as when the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    tables = _tables(played, seeds, services)
    try:
        first = next(tables)
        with pq.ParquetWriter(temporary, first.schema) as writer:  # one lane at a time: all of them may be large
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
        temporary.replace(path)
    except (OSError, pa.ArrowException) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{OPTION} {path}", f"cannot be written: {getattr(error, 'strerror', None) or error}"
        ) from error


def _tables(played: Mapping[str, Simulation], seeds: Sequence[int], services: Sequence[str]) -> Iterator[pa.Table]:
    import numpy as np
    import pyarrow as pa

    for policy, simulation in played.items():
        assert simulation.timeline is not None and simulation.service_timeline is not None
        time_s = simulation.timeline["time_s"]
        for lane, seed in enumerate(seeds):
            columns = {"policy": [policy] * len(time_s), "seed": np.full(len(time_s), seed), "time_s": time_s}
            for name, values in simulation.timeline.items():
                columns |= {} if name == "time_s" else {name: values[lane]}
            for place, service in enumerate(services):
                for name, values in simulation.service_timeline.items():
                    columns[f"services.{service}.{name}"] = values[lane, place]
            yield pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
