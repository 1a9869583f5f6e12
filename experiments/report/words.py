"""The answer in words: which policy keeps the SLO at the least cost, how sure that is, and what it cannot claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.data import Estimate, Outcome, ReportData, baseline_of, evaluated, swept
from experiments.report.series import pareto_front
from sim_core.indicators import INDICATORS

NOTHING = "–"
_SHARES = {indicator.name for indicator in INDICATORS.values() if indicator.is_share}


def usd(value: float) -> str:
    """An amount with the digits that a reader uses: $0.482, $41.20, $182.4, $1,234."""
    if not math.isfinite(value):
        return NOTHING
    size = abs(value)
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{'-' if value < 0 else ''}${size:,.{decimals}f}"


def percent(share: float, decimals: int | None = None) -> str:
    """A share [1] as a percentage, by default with two significant digits below ten."""
    if not math.isfinite(share):
        return NOTHING
    value = 100.0 * share
    if decimals is None:
        decimals = 0 if abs(value) >= 10 or value == 0 else min(4, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f} %"


def attained(share: float, objective: float) -> str:
    """An SLO attainment [1], two digits finer than its objective and rounded down: never better than it was."""
    if not math.isfinite(share):
        return NOTHING
    decimals = _objective_decimals(objective) + 2
    shift = 10.0**decimals
    # The epsilon keeps 99.95 from becoming 99.949999 on its way through binary fractions.
    return f"{math.floor(min(share, 1.0) * 100.0 * shift + 1e-6) / shift:.{decimals}f} %"


def objective_text(objective: float) -> str:
    return f"{100.0 * objective:.{_objective_decimals(objective)}f} %"


def _objective_decimals(objective: float) -> int:
    return next((d for d in range(6) if abs(round(100.0 * objective, d) - 100.0 * objective) < 1e-9), 6)


def seconds(value: float) -> str:
    """A latency or a duration in the unit that reads best: 85 ms, 1.35 s, 4 min 10 s, 2 h 05 min."""
    if not math.isfinite(value):
        return NOTHING
    if abs(value) < 1.0:
        return f"{1000.0 * value:.3g} ms"
    if abs(value) < 60.0:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float) -> str:
    """Three significant digits, thousands separated: 0.62, 4.17, 398, 12,400."""
    if not math.isfinite(value):
        return NOTHING
    size = abs(value)
    decimals = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2
    return f"{value:,.{decimals}f}"


def worded(name: str, value: float, objective: float) -> str:
    """The value of an indicator in its own unit."""
    if name == "slo_attainment":
        return attained(value, objective)
    if name.startswith("cost_usd"):
        return usd(value)
    if name in _SHARES:
        return percent(value)
    if name == "gap_closed":
        return f"{value:.2f}" if math.isfinite(value) else NOTHING
    return seconds(value) if name.endswith("_s") and not name.endswith("_per_s") else number(value)


def interval_words(name: str, estimate: Estimate, objective: float) -> str:
    """`low to high` of the 95 % interval, or an empty string when one seed gave none."""
    if not estimate.has_interval:
        return ""
    return f"{worded(name, estimate.low, objective)} to {worded(name, estimate.high, objective)}"


def slo_words(data: ReportData) -> str:
    return f"{objective_text(data.objective)} of requests answered well within {seconds(data.threshold_s)}"


def keeps_slo(outcome: Outcome, objective: float) -> bool:
    return outcome.measured and outcome.attainment.mean >= objective


def slo_status(outcome: Outcome, objective: float) -> tuple[str, str]:
    """Tone (`good`, `fair`, `bad`, `none`) and words for how an outcome stands to the SLO."""
    attainment = outcome.attainment
    if not math.isfinite(attainment.mean):
        return "none", "not measured"
    if attainment.mean >= objective:
        sure = not attainment.has_interval or attainment.low >= objective
        return ("good", "kept") if sure else ("fair", "kept on average")
    sure = not attainment.has_interval or attainment.high < objective
    return ("bad", "missed") if sure else ("bad", "missed on average")


@dataclass(frozen=True)
class Verdict:
    """What the report says first: a sentence, what supports or weakens it, and a tone (`good`, `fair`, `bad`, `none`)."""

    headline: str
    details: tuple[str, ...]
    tone: str


def verdict(data: ReportData) -> Verdict:
    """The answer that the data supports, and no more: held-out results if there are any, else the sweep's."""
    outcomes = [outcome for outcome in evaluated(data) if outcome.measured]
    configurations = [outcome for outcome in swept(data) if outcome.measured]
    if outcomes:
        return _verdict_of_evaluation(data, outcomes, configurations)
    if configurations:
        return _verdict_of_sweep(data, configurations)
    return Verdict("Nothing has been measured yet.", ("Neither a sweep nor an evaluation has finished.",), "none")


def cheapest_that_keeps(outcomes: Sequence[Outcome], objective: float) -> Outcome | None:
    return min((o for o in outcomes if keeps_slo(o, objective)), key=lambda o: o.cost.mean, default=None)


def _verdict_of_sweep(data: ReportData, configurations: list[Outcome]) -> Verdict:
    nothing_held_out = (
        "No policy was evaluated on held-out traffic: these figures are from the traffic that was searched."
    )
    best = cheapest_that_keeps(configurations, data.objective)
    if best is None:
        nearest = max(configurations, key=lambda o: o.attainment.mean)
        reached = attained(nearest.attainment.mean, data.objective)
        headline = (
            f"None of {_count(len(configurations), 'configuration')} keeps the SLO of {objective_text(data.objective)}; "
            f"{nearest.label} comes nearest with {reached} at {usd(nearest.cost.mean)} a day."
        )
        return Verdict(headline, (nothing_held_out,), "bad")
    kept = sum(keeps_slo(o, data.objective) for o in configurations)
    headline = (
        f"{best.label} keeps the SLO of {objective_text(data.objective)} at the least cost in the sweep: "
        f"{usd(best.cost.mean)} a day."
    )
    details = [f"{kept} of {_count(len(configurations), 'configuration')} keep the SLO.", nothing_held_out]
    details += _certainty_of_slo(best, data.objective)
    return Verdict(headline, tuple(details), "good" if slo_status(best, data.objective)[0] == "good" else "fair")


def _verdict_of_evaluation(data: ReportData, outcomes: list[Outcome], configurations: list[Outcome]) -> Verdict:
    baseline = baseline_of(outcomes)
    deployable = [o for o in outcomes if o.role != "clairvoyant"]
    agents = [o for o in deployable if o.role == "agent"]
    winner = cheapest_that_keeps(deployable, data.objective)
    headline, tone = _headline(deployable or outcomes, winner, baseline, data.objective)
    details: list[str] = []
    for agent in agents:
        details += _agent_against_baseline(agent, baseline, data.objective)
        details += _gap_words(agent, baseline, data.objective)
    for outcome in dict.fromkeys(o for o in (winner, *agents) if o is not None):
        details += _certainty_of_slo(outcome, data.objective)
    if not agents:
        details.append("No trained agent was evaluated.")
    if not all(o.cost.has_interval for o in outcomes):
        details.append("Where no interval is shown there was one seed: such a figure is a sample, not a finding.")
    best = cheapest_that_keeps(configurations, data.objective)
    if best is not None:
        found = f"{best.label}, {usd(best.cost.mean)} a day"
        details.append(
            f"Cheapest of {_count(len(configurations), 'configuration')} that keeps the SLO on training traffic: {found}."
        )
    return Verdict(headline, tuple(details), tone)


def _headline(
    outcomes: list[Outcome], winner: Outcome | None, baseline: Outcome | None, objective: float
) -> tuple[str, str]:
    slo = objective_text(objective)
    if winner is None:
        nearest = max(outcomes, key=lambda o: o.attainment.mean)
        reached = attained(nearest.attainment.mean, objective)
        headline = (
            f"No policy keeps the {slo} SLO on held-out traffic; {nearest.phrase} comes nearest with {reached} "
            f"at {usd(nearest.cost.mean)} a day."
        )
        return headline, "bad"
    keepers = [o for o in outcomes if keeps_slo(o, objective) and o is not winner]
    rivals = [o for o in keepers if differs(winner, o, baseline) is False]
    if rivals:
        names = [f"{o.phrase} ({usd(o.cost.mean)} a day)" for o in (winner, *rivals)]
        headline = (
            f"{_capital(_listed(names))} keep the {slo} SLO at about the same cost; the difference is within the noise."
        )
        return headline, "fair"
    headline = f"{_capital(winner.phrase)} keeps the {slo} SLO at the least cost, {usd(winner.cost.mean)} a day"
    if baseline is not None and winner is not baseline:
        headline += f": {_share_words(winner, baseline)} {baseline.phrase}"
        headline += "" if keeps_slo(baseline, objective) else ", which misses the SLO"
    lost = winner.role != "agent" and any(o.role == "agent" for o in outcomes)
    unsure = slo_status(winner, objective)[0] != "good" or not winner.cost.has_interval
    return f"{headline}.", "fair" if lost or unsure else "good"


def differs(one: Outcome, other: Outcome, baseline: Outcome | None) -> bool | None:
    """Whether two costs differ beyond the noise of the seeds; None when no interval tells.

    Against the baseline the interval of `gap_closed` decides, for it is paired seed by seed; else the costs' intervals.
    """
    if baseline is not None and (one is baseline or other is baseline):
        gap = (other if one is baseline else one).indicator("gap_closed")
        if gap.has_interval:
            return gap.low > 0.0 or gap.high < 0.0
    if one.cost.has_interval and other.cost.has_interval:
        return not one.cost.overlaps(other.cost)
    return None


def _agent_against_baseline(agent: Outcome, baseline: Outcome | None, objective: float) -> list[str]:
    if baseline is None:
        return ["No HPA was evaluated beside the agent: its cost has nothing to be compared with."]
    costs = f"{usd(agent.cost.mean)} against {usd(baseline.cost.mean)} a day, {_share_words(agent, baseline)}"
    who, hpa = _capital(agent.phrase), baseline.phrase
    clear = differs(agent, baseline, baseline)
    lines = []
    if not keeps_slo(agent, objective):
        reached = attained(agent.attainment.mean, objective)
        text = f"{who} misses the SLO ({reached} against {objective_text(objective)}) at {costs} {hpa}"
        cheaper = agent.cost.mean < baseline.cost.mean
        lines.append(
            f"{text}: what it saves is paid for in bad requests." if cheaper else f"{text}: it is not an option."
        )
    elif clear is False:
        lines.append(f"{who} and {hpa} cannot be told apart on cost: {costs} {hpa}, within the noise of the seeds.")
    elif agent.cost.mean < baseline.cost.mean:
        lines.append(f"{who} costs {costs} {hpa}.")
    else:
        lines.append(f"{who} loses on cost: {costs} {hpa}.")
    if clear and agent.cost.has_interval and baseline.cost.has_interval and agent.cost.overlaps(baseline.cost):
        lines.append(
            "The two cost intervals overlap, but the seeds are paired: compared seed by seed the difference is clear."
        )
    return lines


def _gap_words(agent: Outcome, baseline: Outcome | None, objective: float) -> list[str]:
    gap = agent.indicator("gap_closed")
    if baseline is None or not math.isfinite(gap.mean):
        return []
    interval = f" (95 % interval {gap.low:.2f} to {gap.high:.2f})" if gap.has_interval else " (one seed, no interval)"
    text = f"Gap closed: {gap.mean:.2f}{interval}"
    if gap.mean > 0.0:
        text += (
            f", that is {percent(gap.mean, 0)} of the way from {baseline.phrase}'s cost to that of perfect foresight"
        )
    else:
        text += f": {agent.phrase} is no nearer to perfect foresight than {baseline.phrase}"
    if gap.has_interval and gap.low <= 0.0 <= gap.high:
        text += "; the interval holds zero, so no improvement is shown"
    lines = [f"{text}."]
    if agent.attainment.mean < baseline.attainment.mean:
        own, theirs = (attained(o.attainment.mean, objective) for o in (agent, baseline))
        lines.append(
            f"That comparison is not at equal SLO attainment: {agent.phrase} reaches {own}, {baseline.phrase} {theirs}."
        )
    return lines


def _certainty_of_slo(outcome: Outcome, objective: float) -> list[str]:
    status = slo_status(outcome, objective)[1]
    if status == "kept on average":
        low = attained(outcome.attainment.low, objective)
        return [f"{_capital(outcome.phrase)} keeps the SLO on average, but the 95 % interval reaches down to {low}."]
    if status == "missed on average":
        high = attained(outcome.attainment.high, objective)
        return [f"{_capital(outcome.phrase)} misses the SLO on average; the 95 % interval reaches up to {high}."]
    return []


def _share_words(one: Outcome, other: Outcome) -> str:
    if not other.cost.mean > 0.0:
        return "compared with"
    share = one.cost.mean / other.cost.mean - 1.0
    return f"{percent(abs(share))} {'less' if share < 0 else 'more'} than" if round(abs(share), 4) else "the same as"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def comparison_text(data: ReportData) -> str:
    """The comparison as a table for a terminal: the SLO, one row a policy (or the sweep's best), and the answer.

    Each figure is `mean ± half of its 95 % interval`; control characters in names are left out.
    """
    outcomes = evaluated(data)
    scope = "held-out traffic"
    if not outcomes:
        outcomes, scope = _best_of_sweep(data), "training traffic, Pareto front of the sweep"
    answer = verdict(data)
    lines = [
        _printable(f"{data.title} · profile {data.profile.get('name', NOTHING)} · {scope}"),
        f"SLO: {slo_words(data)}",
    ]
    if outcomes:
        lines += ["", *_table(_text_rows(outcomes, data.objective))]
    lines += ["", _printable(answer.headline), *(_printable(f"  - {detail}") for detail in answer.details)]
    return "\n".join(lines)


def _best_of_sweep(data: ReportData, limit: int = 12) -> list[Outcome]:
    configurations = swept(data)
    front = pareto_front([o.cost.mean for o in configurations], [o.attainment.mean for o in configurations])
    return [configurations[i] for i in front][-limit:]


def _text_rows(outcomes: list[Outcome], objective: float) -> list[list[str]]:
    columns = {
        "cost [$/day]": ("cost_usd", 1.0, 2),
        "SLO attainment [%]": ("slo_attainment", 100.0, _objective_decimals(objective) + 2),
        "p95 [ms]": ("latency_p95_s", 1000.0, 0),
        "replica-hours/day": ("replica_hours", 1.0, 1),
        "gap closed": ("gap_closed", 1.0, 2),
    }
    shown = {t: c for t, c in columns.items() if any(math.isfinite(o.indicator(c[0]).mean) for o in outcomes)}
    rows = [["policy", *shown, "SLO"]]
    for outcome in outcomes:
        cells = [_plus_minus(outcome.indicator(name).scaled(factor), digits) for name, factor, digits in shown.values()]
        rows.append([_printable(outcome.label), *cells, slo_status(outcome, objective)[1]])
    return rows


def _plus_minus(estimate: Estimate, decimals: int) -> str:
    if not math.isfinite(estimate.mean):
        return NOTHING
    mean = f"{estimate.mean:.{decimals}f}"
    return f"{mean} ± {estimate.half_width:.{decimals}f}" if estimate.has_interval else mean


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i in (0, last) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())
