"""What Prefect's pages show of a run: tags to find it by, a log of its stages, and artifacts with what came out.

The terminal shows none of it. The server is a place to look, not a place to keep: where it does not answer, the run goes on.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec
from uuid import UUID

import httpx
from prefect import get_client, get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError, PrefectException

from flows.terminal.output import plain

P = ParamSpec("P")
Document = dict[str, Any]

_UPDATE_S = 1.0  # the least time between two requests about progress
_MOST_ROWS = 20  # of the summary; the table artifact holds all
_SHOWN = {
    "cost_usd": ("cost [$]", "{:.2f}"),
    "slo_attainment": ("SLO attainment", "{:.3%}"),
    "latency_p95_s": ("p95 [s]", "{:.3f}"),
    "replica_hours": ("replica-hours", "{:.1f}"),
}


def log(message: str, *values: Any) -> None:
    """A line in the log of the present run."""
    run_logger().info(message, *values)


def run_logger() -> logging.Logger | logging.LoggerAdapter:
    """The log of the present run; outside of one, where tests call plain functions, an ordinary one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("devops_sim.flows")


def tag(kind: str, profile: str, name: str) -> None:
    """Tag the present flow run: what kind of run, on which profile, and the name of the sweep or traffic."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    tags = [*context.flow_run.tags, kind, f"profile:{profile}", f"{kind}:{name}"]
    with _tolerant(), get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, tags=list(dict.fromkeys(tags)))


class ShownProgress:
    """A progress artifact of the present run; requests are spaced out."""

    def __init__(self, name: str, total: int):
        self._total, self._sent_s = total, time.monotonic()
        self._id: UUID | None = None
        with _tolerant():
            self._id = create_progress_artifact(0.0, key_of(name, "progress"), f"{name}: points simulated")

    def update(self, done: int) -> None:
        """So many of the total are done."""
        now_s = time.monotonic()
        if self._id is not None and (done >= self._total or now_s - self._sent_s >= _UPDATE_S):
            self._sent_s = now_s
            with _tolerant():
                update_progress_artifact(self._id, 100.0 * done / max(1, self._total))


def published(function: Callable[P, Document]) -> Callable[P, Document]:
    """The function of a flow whose document goes into the log and the artifacts of its run too."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Document:
        document = function(*args, **kwargs)
        publish(document)
        return document

    # Prefect would look up the names of annotations among those of this module.
    setattr(run, "__signature__", inspect.signature(function, eval_str=True))  # noqa: B010
    return run


def publish(document: Document) -> None:
    """Artifacts and last lines of the log of a sweep or a training."""
    name = _name_of(document)
    with _tolerant():
        create_markdown_artifact(summary(document), key_of(name, "summary"), f"What came out of {name}")
        if document.get("configurations"):
            table = [_table_row(row) for row in document["configurations"]]
            create_table_artifact(plain(table), key_of(name, "configurations"), f"Every configuration of {name}")
        if page := document["mlflow"]["page"]:
            about = "The run in MLflow; `devops-sim ui` serves it."
            create_link_artifact(page, "MLflow run", key_of(name, "mlflow"), about)
        if report := document.get("report"):
            create_link_artifact(Path(report).as_uri(), report, key_of(name, "report"), "The report, one HTML file.")
    if best := document.get("best"):
        log("best: %s (%s)", best["label"], best["reason"])
    log(
        "results in %s, report %s, MLflow run %s",
        document["state"],
        document.get("report"),
        document["mlflow"]["run_id"],
    )


def summary(document: Document) -> str:
    """What came out of a sweep or a training, in Markdown: the best first, then where the rest is."""
    title = [f"# Training on profile {_name_of(document)}", ""]
    lines = _of_sweep(document) if document["command"] == "sweep" else title
    return "\n".join([*lines, *_of_training(document), *_of_places(document)])


def _name_of(document: Document) -> str:
    return str(document.get("name") or document["training"]["profile"])


def key_of(name: str, what: str) -> str:
    """The key of an artifact: lower-case letters, digits and dashes, as Prefect asks for."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{slug}-{what}".lstrip("-")


def _of_sweep(document: Document) -> list[str]:
    best, points = document["best"], document["points"]
    rows = sorted(document["configurations"], key=lambda row: row["configuration_key"] != best["configuration_key"])
    shown = [name for name in _SHOWN if any(name in row["indicators"] for row in rows)]
    lines = [f"# Sweep {document['name']} on profile {document['profile']}", ""]
    lines += [f"**Best: {_cell(best['label'])}**", "", f"{best['reason']}.", ""]
    lines += [f"| configuration | {' | '.join(_SHOWN[name][0] for name in shown)} |", "| --- " * (len(shown) + 1) + "|"]
    for row in rows[:_MOST_ROWS]:
        values = [_figure(name, row["indicators"].get(name, {}).get("mean")) for name in shown]
        lines.append(f"| {_cell(row['label'])} | {' | '.join(values)} |")
    if len(rows) > _MOST_ROWS:
        lines.append(
            f"\n{len(rows) - _MOST_ROWS} more are in the artifact `{key_of(document['name'], 'configurations')}`."
        )
    counts = f"{points['simulated']:,} points simulated, {points['resumed']:,} from earlier runs"
    return [*lines, "", f"{counts}; {document['seconds']['total']:.1f} s.", ""]


def _of_training(document: Document) -> list[str]:
    training, model = document.get("training"), (document.get("model") or {}).get("registered")
    lines = []
    if training:
        what = f"{training['steps']:,} steps on {training['traffic']}, seed {training['seed']}"
        lines.append(f"- trained: {what}{', from an earlier run' if training['resumed'] else ''}")
    if model:
        lines.append(f"- model: `{model['name']}` version {model['version']}, {', '.join(model['aliases'])}")
    return lines


def _of_places(document: Document) -> list[str]:
    places = {
        "report": document.get("report"),
        "MLflow run": document["mlflow"]["page"],
        "state folder": document["state"],
    }
    return [f"- {name}: {place}" for name, place in places.items() if place]


def _table_row(row: Mapping[str, Any]) -> dict[str, Any]:
    means = {name: indicator["mean"] for name, indicator in row["indicators"].items()}
    return {"configuration": row["label"], "seeds": row["seeds"], **means}


def _figure(name: str, value: Any) -> str:
    return _SHOWN[name][1].format(value) if isinstance(value, float) else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@contextmanager
def _tolerant() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        run_logger().warning("Prefect's server did not take what its pages show of this run (%s)", error)
