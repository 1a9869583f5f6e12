"""The description of a registered model, in Markdown: what it is, how it compared, whether it was promoted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DAY_S = 86_400.0
# Columns of the comparison: title, indicator, format.
_COLUMNS = (
    ("cost [USD]", "cost_usd", "{:.2f}"),
    ("SLO attainment", "slo_attainment", "{:.3%}"),
    ("p95 [ms]", "latency_p95_s", "{:.0f}"),
    ("replica-hours", "replica_hours", "{:.1f}"),
)


def model_card(
    registered: Mapping[str, Any],
    job: Mapping[str, Any],
    facts: Mapping[str, Any],
    gate: Mapping[str, Any] | None,
    policies: Mapping[str, Mapping[str, Any]] | None,
) -> str:
    """The text of a version's page.

    Args:
        registered: `uri` and `aliases`.
        job: the training, as `Job.describe` has it.
        facts: what the learner said; plain values are listed.
        gate: `passed` and `reason`; None: it was not asked.
        policies: of an evaluation, as `held_out.policies_document` has them; None: it was not evaluated.
    """
    parts = [
        f"Autoscaler for the profile **{job['profile']}**, trained with {job['algorithm'].upper()} for {job['steps']:,} "
        f"steps (seed {job['seed']}) on {_days(job)} of the traffic `{job['traffic']}`.",
        f"Use it as `{registered['uri']}`.",
    ]
    if gate is not None:
        parts.append(f"**Promotion: {'passed' if gate['passed'] else 'not passed'}.** {gate['reason']}")
    parts.append(
        _comparison(policies) if policies else "It has not been compared with other policies on held-out traffic."
    )
    plain = {name: value for name, value in facts.items() if isinstance(value, str | int | float) and name not in job}
    if plain:
        parts.append("\n".join(["Training:", "", *(f"- {name}: {_figure(value)}" for name, value in plain.items())]))
    return "\n\n".join(parts)


def _days(job: Mapping[str, Any]) -> str:
    days = (job["end_s"] - job["start_s"]) / _DAY_S
    return f"{days:.4g} day{'' if days == 1.0 else 's'}"


def _comparison(policies: Mapping[str, Mapping[str, Any]]) -> str:
    titles = ["policy", *(title for title, _, _ in _COLUMNS), "gap closed", "keeps the SLO"]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for name, entry in policies.items():
        cells = [f"**{name}**" if name == "agent" else name]
        for _, indicator, form in _COLUMNS:
            mean = entry["indicators"].get(indicator, {}).get("mean")
            cells.append("-" if mean is None else form.format(mean * (1000.0 if indicator.endswith("_s") else 1.0)))
        gap = entry["gap_closed"]
        cells += [f"{gap['mean']:.2f}" if gap else "-", "yes" if entry["keeps_slo"] else "no"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(["Compared on held-out traffic, means over paired seeds:", "", *lines])


def _figure(value: str | int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
