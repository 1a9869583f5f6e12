"""`devops-sim bench agreement`: scenarios played in both engines, a table of how far apart they are, and a verdict."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.terminal.output import announce, say
from sim_core.errors import InputError, nearest


@dataclass(frozen=True)
class AgreementRequest:
    """What `devops-sim bench agreement` was asked.

    Attributes:
        only: part of a name, or a pattern such as `*random*`; None: all.
        seeds: most seeds of a scenario.
        traces: folder of trace files; None leaves out the scenarios that play one.
        threads: that share the seeds; None: one a CPU.
        record: file that the results are written to, for `experiments.agreement.validated`.
    """

    only: str | None
    seeds: int
    traces: Path | None
    threads: int | None
    record: Path | None


def measure_agreement(request: AgreementRequest) -> dict[str, Any]:
    """The document of the command: a row a scenario, what was skipped, and the verdict.

    Raises:
        InputError: nothing is called so, or no such folder of traces.
    """
    if request.traces is not None and not request.traces.is_dir():
        raise InputError("--traces", f"is no folder (got {str(request.traces)!r})")

    from experiments.agreement.judge import judge_all, verdict_of
    from experiments.agreement.scenarios import scenarios
    from experiments.agreement.table import bounds, cells, rows, verdict_document
    from experiments.agreement.validated import write_record

    asked = [scenario for scenario in scenarios() if _is_meant(scenario.name, request.only)]
    if not asked:
        known = [scenario.name for scenario in scenarios()]
        raise InputError("--only", f"no scenario is called {request.only!r}{nearest(str(request.only), known)}")
    skipped = [scenario.name for scenario in asked if not scenario.is_playable(request.traces)]
    if skipped:
        say(f"Skipped, for want of --traces FOLDER with their files: {', '.join(skipped)}")
    threads = request.threads or os.cpu_count() or 1
    done = 0

    def on_outcome(outcome: Any) -> None:
        nonlocal done
        done += 1
        announce(f"{done} of {len(asked) - len(skipped)}: {'  '.join(cells(rows([outcome])[0]))}")

    outcomes = judge_all(asked, on_outcome, traces=request.traces, most_seeds=request.seeds, threads=threads)
    verdict = verdict_of(outcomes)
    if request.record is not None:
        write_record(request.record, asked, outcomes)
    return {
        "command": "bench agreement",
        "bounds": bounds(),
        "scenarios": rows(outcomes),
        "skipped": skipped,
        "verdict": verdict_document(verdict),
        "record": str(request.record) if request.record else None,
    }


def _is_meant(name: str, pattern: str | None) -> bool:
    return pattern is None or pattern in name or fnmatch.fnmatchcase(name, pattern)
