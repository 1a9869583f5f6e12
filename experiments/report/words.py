"""The answer in words: which policy keeps the SLO at the least cost, how sure that is, and what it cannot claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.analysis.amounts import (
    NOTHING,
    attained,
    number,
    objective_decimals,
    objective_text,
    percent,
    percent_down,
    rounded_down,
    seconds,
    usd,
)
from experiments.analysis.savings import MONTH_DAYS, Savings, savings
from experiments.report.data import (
    SECONDS_PER_DAY,
    Estimate,
    Outcome,
    ReportData,
    at_worst,
    baseline_of,
    evaluated,
    swept,
)
from experiments.report.series import pareto_front
from sim_core.engines import FLUID
from sim_core.indicators import FIXED_COST_TITLES, INDICATORS
from sim_core.units import format_duration

LEARNED = ("agent", "general")  # roles of those that learned: on this traffic, and on others
_SHARES = {indicator.name for indicator in INDICATORS.values() if indicator.is_share}


def worded(name: str, value: float, objective: float) -> str:
    """The value of an indicator in its own unit."""
    if name in ("slo_attainment", "availability"):
        return attained(value, objective)
    if name == "error_budget_left":
        return percent_down(value, 1)
    if name.startswith("cost_"):
        return usd(value)
    if name in _SHARES:
        return percent(value)
    if name == "gap_closed":
        return f"{value:.2f}" if math.isfinite(value) else NOTHING
    return seconds(value) if name.endswith("_s") and not name.endswith("_per_s") else number(value)


def interval_words(name: str, estimate: Estimate, objective: float) -> str:
    """`low to high` of the 95 % interval; empty where too few seeds gave none, or it has no width in the digits shown."""
    mean, low, high = (worded(name, value, objective) for value in (estimate.mean, estimate.low, estimate.high))
    return f"{low} to {high}" if estimate.has_interval and not low == mean == high else ""


def slo_words(data: ReportData) -> str:
    return f"{objective_text(data.objective)} {within_slo(data)}"


def within_slo(data: ReportData) -> str:
    return f"of requests answered without error within {seconds(data.threshold_s)}"


def keeps_slo(outcome: Outcome, objective: float) -> bool:
    return outcome.measured and outcome.attainment.mean >= objective


def slo_status(outcome: Outcome, objective: float) -> tuple[str, str]:
    """Tone (`good`, `fair`, `bad`, `none`) and words for how an outcome stands to the SLO."""
    return attainment_status(outcome.attainment, objective)


def attainment_status(attainment: Estimate, objective: float) -> tuple[str, str]:
    """The same of an SLO attainment."""
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
    configurations = [outcome for outcome in at_worst(swept(data)) if outcome.measured]
    if outcomes:
        return _verdict_of_evaluation(data, outcomes, configurations)
    if configurations:
        return _verdict_of_sweep(data, configurations)
    return Verdict("Nothing has been measured yet.", ("Neither a sweep nor an evaluation has finished.",), "none")


def cheapest_that_keeps(outcomes: Sequence[Outcome], objective: float) -> Outcome | None:
    return min((o for o in outcomes if keeps_slo(o, objective)), key=lambda o: o.cost.mean, default=None)


def recommended_of(data: ReportData, configurations: Sequence[Outcome]) -> Outcome | None:
    """What the sweep recommends: what its objective chose, else the cheapest that keeps the SLO, else the nearest to it."""
    named = data.recommended.label if data.recommended is not None else None
    measured = [outcome for outcome in configurations if outcome.measured]
    found = next((outcome for outcome in measured if outcome.label == named), None)
    found = found or cheapest_that_keeps(measured, data.objective)
    return found or max(measured, key=lambda o: o.attainment.mean, default=None)


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
            f"{nearest.label} comes nearest with {reached} at {cost_words(nearest)}."
        )
        return Verdict(headline, (*_objective_words(data, nearest), nothing_held_out), "bad")
    kept = sum(keeps_slo(o, data.objective) for o in configurations)
    headline = (
        f"{best.label} keeps the SLO of {objective_text(data.objective)} at the least cost in the sweep: "
        f"{cost_words(best)}."
    )
    details = [f"{kept} of {_count(len(configurations), 'configuration')} keep the SLO.", nothing_held_out]
    details[:0] = _objective_words(data, best)
    details += _certainty_of_slo(best, data.objective)
    return Verdict(headline, tuple(details), "good" if slo_status(best, data.objective)[0] == "good" else "fair")


def _objective_words(data: ReportData, named: Outcome) -> list[str]:
    """What the sweep's own objective chose, where that is not the configuration named already."""
    chosen = data.recommended
    if chosen is None or chosen.label == named.label:
        return []
    return [f"Recommended by the sweep's own objective: {chosen.label}, {chosen.reason}."]


def _verdict_of_evaluation(data: ReportData, outcomes: list[Outcome], configurations: list[Outcome]) -> Verdict:
    baseline = baseline_of(outcomes)
    deployable = [o for o in outcomes if o.role != "clairvoyant"]
    agents = learned(deployable)
    winner = cheapest_that_keeps(deployable, data.objective)
    headline, tone = _headline(deployable or outcomes, winner, baseline, data.objective)
    details: list[str] = []
    for agent in agents:
        details += _agent_against_baseline(agent, baseline, data.objective)
        details += _gap_words(agent, baseline, data)
    details += _no_room_words(outcomes, agents)
    for outcome in dict.fromkeys(o for o in (winner, *agents) if o is not None):
        details += _certainty_of_slo(outcome, data.objective)
    details += _trained_or_general(agents, data.objective)
    if all(agent.role == "general" for agent in agents):
        details.append("No trained agent was evaluated.")
    if not all(o.cost.has_interval for o in outcomes):
        details.append(
            "Where no interval is shown there were fewer than three seeds: such a figure is a sample, not a finding."
        )
    best = cheapest_that_keeps(configurations, data.objective)
    if best is not None:
        found = f"{best.label}, {cost_words(best)}"
        details.append(
            f"Cheapest of {_count(len(configurations), 'configuration')} that keeps the SLO on training traffic: {found}."
        )
    return Verdict(headline, tuple(details), tone)


def learned(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The agents among them: trained ones first, then those that come with the package."""
    return sorted((o for o in outcomes if o.role in LEARNED), key=lambda o: LEARNED.index(o.role))


def _trained_or_general(agents: Sequence[Outcome], objective: float) -> list[str]:
    """What training on this traffic was worth, where an agent that was trained on it stands beside a general one."""
    trained = next((o for o in agents if o.policy == "agent"), None)
    general = next((o for o in agents if o.role == "general"), None)
    if trained is None or general is None:
        return []
    saved = saved_against(trained, general)
    difference = f"needs {saved.brief(general.phrase)}" if saved else f"costs {_share_words(trained, general)}"
    noise = ", which is within the noise of the seeds" if differs(trained, general, None) is False else ""
    reached = [attained(o.attainment.mean, objective) for o in (trained, general)]
    return [
        f"{_capital(trained.phrase)} learned on the traffic before; {general.phrase} comes with the package and has never "
        f"seen any of it. Side by side {trained.phrase} {difference}{noise}, at an SLO attainment of {reached[0]} against "
        f"{reached[1]}."
    ]


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
        saved = saved_against(winner, baseline)
        headline += f": {saved.brief(baseline.phrase) if saved else _share_words(winner, baseline)}"
        headline += "" if keeps_slo(baseline, objective) else f"; {baseline.phrase} misses the SLO"
    lost = not learned([winner]) and bool(learned(outcomes))
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
        return [f"No HPA was evaluated beside {agent.phrase}: its cost has nothing to be compared with."]
    who, hpa = _capital(agent.phrase), baseline.phrase
    saved = saved_against(agent, baseline)
    costs = f"needs {saved.words(hpa)}" if saved else f"costs {_share_words(agent, baseline)}"
    costs += f": {usd(agent.cost.mean)} against {usd(baseline.cost.mean)} a day"
    clear = differs(agent, baseline, baseline)
    lines = []
    if not keeps_slo(agent, objective):
        reached = attained(agent.attainment.mean, objective)
        cheaper = agent.cost.mean < baseline.cost.mean
        end = "what it saves is paid for in bad requests" if cheaper else "it is not an option"
        lines.append(f"{who} misses the SLO ({reached} against {objective_text(objective)}): {end}. It {costs}.")
    elif clear is False:
        lines.append(f"{who} and {hpa} cannot be told apart on cost, within the noise of the seeds: it {costs}.")
    elif agent.cost.mean < baseline.cost.mean:
        lines.append(f"{who} {costs}.")
    else:
        lines.append(f"{who} loses on cost: it {costs}.")
    if clear and agent.cost.has_interval and baseline.cost.has_interval and agent.cost.overlaps(baseline.cost):
        lines.append(
            "The two cost intervals overlap, but the seeds are paired: compared seed by seed the difference is clear."
        )
    return lines


def _gap_words(agent: Outcome, baseline: Outcome | None, data: ReportData) -> list[str]:
    gap = agent.indicator("gap_closed")
    if baseline is None or not math.isfinite(gap.mean):
        return []
    interval = (
        f"95 % interval {gap.low:.2f} to {gap.high:.2f} {gap_scope(data)}"
        if gap.has_interval
        else "fewer than three seeds, no interval"
    )
    text = f"Gap closed: {gap.mean:.2f} ({interval})"
    if gap.mean > 0.0:
        text += (
            f", that is {percent(gap.mean, 0)} of the way from {baseline.phrase}'s cost to that of perfect foresight"
        )
    else:
        text += f": {agent.phrase} is no nearer to perfect foresight than {baseline.phrase}"
    if gap.has_interval and gap.low <= 0.0 <= gap.high:
        text += "; the interval holds zero, so no improvement is shown"
    lines = [f"{text}."]
    own_limits, other_limits = agent.attainment, baseline.attainment
    if own_limits.mean < other_limits.mean or own_limits.low > other_limits.high:
        own, theirs = (attained(o.attainment.mean, data.objective) for o in (agent, baseline))
        lines.append(
            f"That comparison is not at equal SLO attainment: {agent.phrase} reaches {own}, {baseline.phrase} {theirs}."
        )
    return lines


def gap_scope(data: ReportData) -> str:
    """What the interval of the gap closed is over, and thereby what it says nothing of."""
    one_day = data.evaluation_duration_s == SECONDS_PER_DAY
    stretch = "day" if one_day else f"stretch of {format_duration(data.evaluation_duration_s)}"
    return f"over the evaluation seeds of one {stretch} and one training"


def saved_against(one: Outcome, other: Outcome) -> Savings | None:
    """What one saves against the other; None where the figures of their pods are not known."""
    own, others = ({name: estimate.mean for name, estimate in o.indicators.items()} for o in (one, other))
    return savings(own, others)  # outcomes are per day already


def _no_room_words(outcomes: list[Outcome], agents: list[Outcome]) -> list[str]:
    """That there is no gap to close, where both its ends were measured and no agent has one."""
    ends = {o.policy: o.cost.mean for o in outcomes if o.policy in ("hpa-tuned", "clairvoyant") and o.measured}
    if len(ends) < 2 or not agents or any(math.isfinite(a.indicator("gap_closed").mean) for a in agents):
        return []
    same = math.isclose(ends["hpa-tuned"], ends["clairvoyant"], rel_tol=1e-9)
    why = "HPA and clairvoyant cost the same" if same else "clairvoyant costs no less than the HPA"
    return [f"Gap closed: no room: {why}."]


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
        return f"compared with {other.phrase}"
    share = one.cost.mean / other.cost.mean - 1.0
    relation = (
        f"{percent(abs(share))} {'less' if share < 0 else 'more'} than" if round(abs(share), 4) else "the same as"
    )
    return f"{relation} {other.phrase}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def comparison_text(data: ReportData, limit: int = 12) -> str:
    """The comparison as a table for a terminal: the SLO, one row a policy (or the sweep's best), and the answer.

    Each figure is a mean over seeds with its 95 % interval below it; control characters in names are left out.

    Args:
        limit: rows of a sweep at the most; what it recommends is the first of them.
    """
    outcomes, scope, hidden = evaluated(data), "held-out traffic", 0
    if not outcomes:
        outcomes, hidden = _best_of_sweep(data, limit)
        scope = "training traffic, the recommended configuration and the Pareto front of the sweep"
        scope += ", each in its worst scenario" if "scenario" in data.sweep else ""
    answer = verdict(data)
    engine = "" if data.engine == FLUID else f" · engine {data.engine}"
    lines = [
        _printable(f"{data.title} · profile {data.profile.get('name', NOTHING)} · {scope}{engine}"),
        f"SLO: {slo_words(data)}",
    ]
    if outcomes:
        rows = _text_rows(outcomes, data.objective)
        lines += ["", *_table(rows)]
        lines += ["Below each mean: its 95 % interval over seeds."] if len(rows) > 1 + len(outcomes) else []
        lines += [f"({_count(hidden, 'row')} more of the Pareto front in the report)"] if hidden else []
        lines += [f"Fixed cost: {fixed}" for fixed in [fixed_cost_words(outcomes)] if fixed]
        lines += [f"A month of 30 days: {', '.join(_month_words(o) for o in outcomes)}"] if evaluated(data) else []
    lines += ["", _printable(answer.headline), *(_printable(f"  - {detail}") for detail in answer.details)]
    return "\n".join(lines)


def _best_of_sweep(data: ReportData, limit: int) -> tuple[list[Outcome], int]:
    """What the sweep recommends, then its neighbours on the Pareto front, cheapest first; how many do not fit."""
    configurations = at_worst(swept(data))
    chosen = recommended_of(data, configurations)
    if chosen is None:
        return [], 0
    front = pareto_front([o.cost.mean for o in configurations], [o.attainment.mean for o in configurations])
    others = [configurations[i] for i in front if configurations[i] is not chosen]
    near = sorted(others, key=lambda o: abs(o.cost.mean - chosen.cost.mean))[: limit - 1]
    return [chosen, *sorted(near, key=lambda o: o.cost.mean)], len(others) - len(near)


def cost_words(outcome: Outcome) -> str:
    """`$39.10 a day, $7.78 of it for pods`; the whole alone where the part of the pods is not known."""
    pods_usd = outcome.indicator("cost_pods_usd").mean
    return f"{usd(outcome.cost.mean)} a day" + (f", {usd(pods_usd)} of it for pods" if math.isfinite(pods_usd) else "")


def fixed_cost_words(outcomes: Sequence[Outcome]) -> str:
    """What database, cache and load balancer cost a day whatever the policy does; empty where it is not known."""
    known = [o for o in outcomes if math.isfinite(o.indicator("cost_fixed_usd").mean)]
    if not known:
        return ""
    words = ", ".join(f"{title} {_from_to(known, name)}" for title, name in FIXED_COST_TITLES.items())
    return f"{_from_to(known, 'cost_fixed_usd')} a day whatever the policy does ({words})"


def _from_to(outcomes: Sequence[Outcome], name: str) -> str:
    means = [outcome.indicator(name).mean for outcome in outcomes]
    least, most = usd(min(means)), usd(max(means))
    return least if least == most else f"{least} to {most}"


def _month_words(outcome: Outcome) -> str:
    return f"{_printable(outcome.label)} {usd(MONTH_DAYS * outcome.cost.mean)}"


def _text_rows(outcomes: list[Outcome], objective: float) -> list[list[str]]:
    columns = {
        "pods [$/day]": ("cost_pods_usd", 1.0, 2),
        "in all [$/day]": ("cost_usd", 1.0, 2),
        "SLO attainment [%]": ("slo_attainment", 100.0, objective_decimals(objective) + 2),
        "p95 [ms]": ("latency_p95_s", 1000.0, 0),
        "replica-hours/day": ("replica_hours", 1.0, 1),
        "scale events/day": ("scale_events", 1.0, 0),
        "gap closed": ("gap_closed", 1.0, 2),
    }
    shown = {t: c for t, c in columns.items() if any(math.isfinite(o.indicator(c[0]).mean) for o in outcomes)}
    rows = [["policy", *shown, "SLO"]]
    for outcome in outcomes:
        estimates = [(name, outcome.indicator(name).scaled(factor), digits) for name, factor, digits in shown.values()]
        means = [_figure(name, estimate.mean, digits) for name, estimate, digits in estimates]
        rows.append([_printable(outcome.label), *means, slo_status(outcome, objective)[1]])
        limits = [_limits(name, estimate, digits) for name, estimate, digits in estimates]
        rows += [["", *limits, ""]] if any(limits) else []
    return rows


def _figure(name: str, value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return NOTHING
    return f"{rounded_down(value, decimals) if name == 'slo_attainment' else value:.{decimals}f}"


def _limits(name: str, estimate: Estimate, decimals: int) -> str:
    mean, low, high = (_figure(name, value, decimals) for value in (estimate.mean, estimate.low, estimate.high))
    return f"{low} to {high}" if estimate.has_interval and not low == mean == high else ""


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
