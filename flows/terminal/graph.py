"""The graph of a profile as people and programs read it: who calls whom, how often, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.analysis.amounts import objective_text
from sim_core.dataplane.services.drafts import KINDS
from sim_core.dataplane.services.graph import resolve
from sim_core.dataplane.services.kinds import BRANCH, CALL_STEP, CPU, INGRESS, PARALLEL, WAIT

if TYPE_CHECKING:
    from sim_core.dataplane.services.graph import Graph, Step
    from sim_core.profile import Profile

_NAMES = {kind: name for name, kind in KINDS.items()}


def graph_document(profile: Profile) -> dict[str, Any]:
    """Every endpoint, callers before callees, with its steps; those of the ingress are the classes of requests.

    `visits` are calls a request of the mean mix, retries apart, `idle_s` the mean sojourn where nothing waits [s], and
    `cpu_s` the mean CPU time of a call on a warm pod [s].
    """
    graph = resolve(profile)
    classes = [
        {
            "name": kind.name,
            "share": kind.mean_share,
            "objective": kind.objective,
            "latency_threshold_s": kind.latency_threshold_s,
            "idle_s": graph.idle_s[kind.endpoint],
            "steps": _steps(graph, kind.endpoint),
        }
        for kind in graph.classes
    ]
    endpoints = [
        {
            "name": graph.endpoints[row].name,
            "visits": graph.endpoint_visits[row],
            "idle_s": graph.idle_s[row],
            "cpu_s": graph.endpoints[row].cpu_s,
            "steps": _steps(graph, row),
        }
        for row in graph.endpoint_order
        if graph.endpoints[row].service != INGRESS
    ]
    return {"profile": profile.name, "idle_s": graph.mean_idle_s, "classes": classes, "endpoints": endpoints}


def show_graph(document: Mapping[str, Any]) -> None:
    """The classes of requests and then the endpoints, one a row."""
    from flows.terminal.output import print_table, print_text

    rows = [
        [
            f"requests {kind['name']}",
            f"{_in_words(kind['steps'])}  ({objective_text(kind['objective'])} in {kind['latency_threshold_s']:g} s)",
            f"{kind['share']:.4g}",
            f"{kind['idle_s']:.4g}",
            "",
        ]
        for kind in document["classes"]
    ]
    rows += [
        [
            endpoint["name"],
            _in_words(endpoint["steps"]),
            *(f"{endpoint[name]:.4g}" for name in ("visits", "idle_s", "cpu_s")),
        ]
        for endpoint in document["endpoints"]
    ]
    title = f"{document['profile']}: a request takes {document['idle_s']:.4g} s where nothing waits, on the mean"
    print_table(title, ("endpoint", "steps", "visits", "idle_s", "cpu_s"), rows, words=2)
    print_text(
        "Steps one after the other; [ | ] run side by side until the slowest ends. visits: calls a request of the mean "
        "mix, retries apart. idle_s: mean time of a call where nothing waits. cpu_s: its mean CPU time."
    )


def _steps(graph: Graph, endpoint: int) -> list[dict[str, Any]]:
    rows = graph.endpoints[endpoint]
    return _between(graph, rows.steps_first, rows.steps_first + rows.n_steps)


def _between(graph: Graph, first: int, end: int) -> list[dict[str, Any]]:
    """The steps in rows from `first` until `end`, what they hold within them."""
    steps = []
    while first < end:
        steps.append(_step(graph, first))
        first = graph.steps[first].end
    return steps


def _step(graph: Graph, row: int) -> dict[str, Any]:
    step: Step = graph.steps[row]
    found: dict[str, Any] = {"step": _NAMES[step.kind], "probability": step.probability}
    if step.kind == PARALLEL:
        branches, at = [], row + 1
        while at < step.end:
            assert graph.steps[at].kind == BRANCH
            branches.append(_between(graph, at + 1, graph.steps[at].end))
            at = graph.steps[at].end
        return found | {"branches": branches}
    if step.kind in (CPU, WAIT):
        return found | {"mean_s": step.mean_s, "scv": step.scv}
    found["count"] = step.count
    if step.kind == CALL_STEP:
        call = graph.calls[step.target]
        found |= {
            "endpoint": graph.endpoints[call.endpoint].name,
            "timeout_s": call.client.timeout_seconds,
            "max_retries": call.client.max_retries,
        }
    return found


def _in_words(steps: Sequence[Mapping[str, Any]]) -> str:
    """`cpu 0.004 s, [→ a | 80 % → b], 2.5 × → c, 4 × cached_read`."""
    return ", ".join(map(_words, steps))


def _words(step: Mapping[str, Any]) -> str:
    if "branches" in step:
        return f"[{' | '.join(_in_words(branch) for branch in step['branches'])}]"
    what = f"→ {step['endpoint']}" if "endpoint" in step else step["step"]
    often = f"{step['count']:g} × " if step.get("count", 1.0) != 1.0 else ""
    likely = f"{100.0 * step['probability']:g} % " if step["probability"] != 1.0 else ""
    return f"{likely}{often}{what}" + (f" {step['mean_s']:g} s" if "mean_s" in step else "")
