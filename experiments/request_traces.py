"""Spans of sampled requests as files: one Parquet and one OpenTelemetry JSON file a policy and seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim_core.engines import REQUESTS
from sim_core.errors import InputError

if TYPE_CHECKING:
    from sim_core.simulation import Worlds

OPTION, OUTPUT_OPTION = "--trace-requests", "--trace-output"


def check_traces(share: float, engine: str, folder: Path) -> None:
    """Refuse traces that could not be made or written, before anything is simulated; makes their folder.

    Raises:
        InputError: the share is none, the engine knows no single requests, or the folder cannot be made.
    """
    if not 0.0 < share <= 1.0:
        raise InputError(OPTION, f"must be greater than 0 and at most 1: a share of the requests (got {share:g})")
    if engine != REQUESTS:
        raise InputError(OPTION, f"needs --engine {REQUESTS}: the engine {engine} knows no single requests")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{OUTPUT_OPTION} {folder}", f"cannot be made: {error.strerror or error}") from None


def write_traces(folder: Path, worlds: Worlds, policy: str, seeds: Sequence[int], epoch_s: float) -> list[Path]:
    """Writes the spans that worlds hold; the files, NAME.parquet and NAME.json of each seed.

    Args:
        worlds: played in the request engine with a share of traced requests; their spans are taken.
        policy: that they were played under; part of the names.
        seeds: of the lanes.
        epoch_s: Unix time that viewers show for the beginning of a lane [s]; Parquet keeps the lane's own clock.
    """
    from sim_core.dataplane.requests.traces import Names, write_otlp_json, write_parquet
    from sim_core.dataplane.services.graph import resolve

    assert worlds.engines is not None
    written = []
    for lane, seed in enumerate(seeds):
        profile = worlds.lanes[lane].profile
        graph = resolve(profile)
        names = Names(
            [service.name for service in graph.services],
            [endpoint.name for endpoint in graph.endpoints],
            [kind.name for kind in graph.classes],
        )
        spans = worlds.engines.take_spans(lane)
        stem = folder / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', policy).strip('-')}-seed{seed}"
        table, document = stem.with_name(f"{stem.name}.parquet"), stem.with_name(f"{stem.name}.json")
        write_parquet(table, spans, names)
        write_otlp_json(document, spans, names, epoch_s)
        written += [table, document]
    return written
