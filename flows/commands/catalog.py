"""`devops-sim profile` and `devops-sim trace`: look at and check what a simulation is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands import options

profile_app = typer.Typer(help="Environments: list, show and check profiles.", no_args_is_help=True)
trace_app = typer.Typer(help="Traffic: look at trace files.", no_args_is_help=True)


@profile_app.command("list")
def list_profiles(as_json: options.Json = False) -> None:
    """Name and describe the bundled profiles: environments, and examples of graphs of services."""
    from flows.terminal.output import print_json, print_table
    from sim_core.bundled import profile_names
    from sim_core.profile import load_profile

    rows = [(name, load_profile(name).description) for name in profile_names()]
    if as_json:
        print_json(
            {"command": "profile list", "profiles": [{"name": name, "description": text} for name, text in rows]}
        )
    else:
        print_table("Profiles", ("name", "description"), rows, words=2)


@profile_app.command("show")
def show_profile(
    profile: options.Profile,
    settings: options.Settings = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Who calls whom instead: classes of requests, endpoints and their steps.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Print a profile whole, with its defaults filled in, or the graph of its services."""
    import yaml

    from flows.inputs import load_profile, overrides
    from flows.terminal.graph import graph_document, show_graph
    from flows.terminal.output import print_json

    shown = load_profile(profile, overrides(settings or []))
    data = graph_document(shown) if graph else shown.to_dict()
    if as_json:
        print_json(data)
    elif graph:
        show_graph(data)
    else:
        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120), end="")


@profile_app.command("check")
def check_profile(profile: options.Profile, settings: options.Settings = None, as_json: options.Json = False) -> None:
    """Check a profile; every problem at once, with path, rule and value. Exit code 2 if there are any.

    Warnings tell what is allowed but hardly meant; with them a profile is valid.
    """
    from flows.inputs import load_profile, overrides
    from flows.terminal.output import print_json
    from sim_core.profile import warnings_of

    checked = load_profile(profile, overrides(settings or []))
    warnings = warnings_of(checked)
    if as_json:
        facts = {"profile": profile, "name": checked.name, "valid": True, "warnings": warnings}
        print_json({"command": "profile check", **facts})
        return
    for warning in warnings:
        print(f"Warning: {warning}")
    print(f"{profile}: valid" + (f", {len(warnings)} warning{'s'[: len(warnings) != 1]}" if warnings else ""))


@trace_app.command("info")
def trace_info(
    trace: Annotated[Path, typer.Argument(help="A trace file: CSV, gzip or not.")], as_json: options.Json = False
) -> None:
    """Check a trace and print its length, step and rates."""
    from flows.terminal.output import print_json, print_table
    from sim_core.workload import read_trace

    facts = _trace_facts(read_trace(trace))
    if as_json:
        print_json({"command": "trace info", "trace": str(trace), **facts})
    else:
        rows = [(name, f"{value:,.6g}" if isinstance(value, float) else str(value)) for name, value in facts.items()]
        print_table(str(trace), ("figure", "value"), rows)


def _trace_facts(trace: Any) -> dict[str, Any]:
    import numpy as np

    rates = trace.rates_per_s
    median, p99 = np.quantile(rates, (0.5, 0.99))
    return {
        "name": trace.name,
        "steps": len(rates),
        "step_s": float(trace.step_s),
        "duration_s": float(trace.duration_s),
        "duration_days": float(trace.duration_s) / 86_400,
        "min_per_s": float(rates.min()),
        "median_per_s": float(median),
        "mean_per_s": float(trace.mean_per_s),
        "p99_per_s": float(p99),
        "peak_per_s": float(trace.peak_per_s),
        "peak_to_mean": float(trace.peak_per_s / trace.mean_per_s) if trace.mean_per_s > 0 else float("nan"),
        "digest": trace.digest,
    }
