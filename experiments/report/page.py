"""One HTML file that answers the question of a sweep, to be opened and forwarded: nothing in it needs a network.

The page holds plotly.js once and refuses, by its content security policy, to load or run anything else.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from experiments.analysis.amounts import NOTHING, number, objective_text, percent, seconds, usd
from experiments.analysis.savings import MONTH_DAYS
from experiments.report import figures
from experiments.report.data import (
    INDICATOR_TITLES,
    Estimate,
    Outcome,
    ReportData,
    at_worst,
    baseline_of,
    estimate_of,
    evaluated,
    swept,
)
from experiments.report.decisions import decision_caption, decision_day, decision_figure
from experiments.report.html import Cell, Row, Table, page_of, write_file
from experiments.report.series import pareto_front
from experiments.report.words import (
    attainment_status,
    cheapest_that_keeps,
    fixed_cost_words,
    gap_scope,
    interval_words,
    keeps_slo,
    learned,
    recommended_of,
    saved_against,
    slo_status,
    slo_words,
    verdict,
    within_slo,
    worded,
)
from sim_core.engines import engine_named
from sim_core.units import format_duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SWEEP_ROWS = 1_000
_MOST_TILES = 6  # a row at 1280 px, and three rows of two on a phone; the tables have the rest
_MOST_LETTERS = 60  # of the settings under a policy's name; longer ones unfold
_DURATIONS = ("start", "duration", "duration_s")  # of traffic and its windows: 7d; wall times read 2 min 18 s
_PLAIN_NAMES = ("agent", "general", "hpa-tuned", "hpa")  # which the label says already
_AGAINST = "pod-hours against HPA"
_TEMPLATES = Path(__file__).parent / "templates"
_MAIN_INDICATORS = (
    "cost_pods_usd",
    "cost_fixed_usd",
    "cost_usd",
    "slo_attainment",
    "latency_p95_s",
    "error_ratio",
    "replica_hours",
    "utilization_mean",
    "scale_events",
    "gap_closed",
)
_SWEEP_INDICATORS = (
    "cost_pods_usd",
    "cost_usd",
    "slo_attainment",
    "latency_p95_s",
    "replica_hours",
    "utilization_mean",
    "scale_events",
)


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report as one self-contained HTML file and return its path.

    The file appears whole or not at all: it is written beside its place and moved there.

    Raises:
        InputError: the folder cannot be made or written.
    """
    page = render(data)
    return write_file(Path(path), page.encode("utf-8", errors="replace"))


def write_pictures(data: ReportData, folder: str | Path) -> list[Path]:
    """Write the report's figures as pictures, named by `PICTURES`, as far as there is data for them; the paths written.

    Raises:
        InputError: the folder cannot be made or written.
    """
    from experiments.report.pictures import PICTURES  # matplotlib costs half a second that no report needs

    written = []
    for name, draw in PICTURES.items():
        figure = draw(data)
        if figure is not None:
            written.append(write_file(Path(folder) / name, _png(figure)))
    return written


def _png(figure: Figure) -> bytes:
    """A picture of few colors: with a palette it takes a third of the space, and looks the same."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=160)
    Image.open(drawn).convert("RGB").quantize(128).save(small, format="png", optimize=True)
    return small.getvalue()


def render(data: ReportData) -> str:
    """The page as text."""
    day = decision_day(data)
    drawn = {
        "comparison": figures.comparison_figure(data),
        "sweep": figures.sweep_figure(data),
        "timeline": figures.timeline_figure(data),
        "decisions": decision_figure(day),
        "learning": figures.learning_figure(data),
    }
    outcomes, played = evaluated(data), swept(data)
    configurations = at_worst(played)
    return page_of(
        "report.html.j2",
        drawn,
        figures.dark_colors(data),
        data=data,
        answer=verdict(data),
        tiles=_tiles(outcomes, configurations, data),
        slo=slo_words(data),
        fixed_cost=fixed_cost_words(outcomes or configurations),
        gap_scope=gap_scope(data),
        comparison=_comparison_table(outcomes, data.objective),
        all_indicators=_indicator_table(outcomes, data.objective),
        classes=_class_table(outcomes, data.classes),
        decisions=day,
        decisions_caption=decision_caption(day) if day else "",
        sweep=_sweep_table(played, data),
        sweep_total=len(played),
        traffic=_facts(data.traffic),
        provenance=_facts({k: v for k, v in data.provenance.items() if k != "commands"}),
        commands=_commands(data.provenance.get("commands")),
        profile_yaml=_yaml(data.profile),
        spec_yaml=_yaml(_with_durations(data.spec)) if data.spec else None,
        engine=engine_named(data.engine),
        has_clairvoyant=any(outcome.role == "clairvoyant" for outcome in outcomes),
    )


@dataclass(frozen=True)
class Tile:
    title: str
    value: str
    note: str
    color: str = ""


def _tiles(outcomes: list[Outcome], configurations: list[Outcome], data: ReportData) -> list[Tile]:
    tiles = [Tile("Objective", objective_text(data.objective), within_slo(data))]
    baseline = baseline_of(outcomes)
    agents = learned([o for o in outcomes if o.measured])[:2]
    best = cheapest_that_keeps([o for o in outcomes if o.role != "clairvoyant"], data.objective)
    shown = [*agents, *([baseline] if baseline else [])]
    shown += [best] if best is not None and best not in shown else []
    whose = f"{agents[0].label}: " if len(agents) > 1 else ""
    for outcome in shown:
        tiles.append(
            Tile(outcome.label, f"{usd(outcome.cost.mean)}/day", _tile_note(outcome, data), outcome.style.color)
        )
    if agents and baseline is not None and (saved := saved_against(agents[0], baseline)) is not None:
        share = f"{percent(abs(saved.replica_hours_share))} {'less' if saved.replica_hours_share >= 0 else 'more'}"
        title = f"pod-hours against {baseline.phrase}"
        tiles.append(Tile(_capital(f"{whose}{title}"), share, saved.amounts(), agents[0].style.color))
    if agents and math.isfinite((gap := agents[0].indicator("gap_closed")).mean):
        scope = f"95 % interval {gap.low:.2f} to {gap.high:.2f} {gap_scope(data)}"
        interval = scope if gap.has_interval else "fewer than three seeds, no interval"
        tiles.append(
            Tile(_capital(f"{whose}gap closed to foresight"), f"{gap.mean:.2f}", interval, agents[0].style.color)
        )
    if not outcomes and configurations:
        kept = sum(keeps_slo(o, data.objective) for o in configurations)
        tiles.append(Tile("Configurations swept", f"{len(configurations)}", f"{kept} keep the SLO"))
        found = cheapest_that_keeps(configurations, data.objective)
        if found is not None:
            note = f"{_tile_note(found, data)}: {found.label}"
            tiles.append(Tile("Cheapest that keeps it", f"{usd(found.cost.mean)}/day", note, found.style.color))
    return tiles[:_MOST_TILES]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _tile_note(outcome: Outcome, data: ReportData) -> str:
    pods, fixed = (outcome.indicator(name).mean for name in ("cost_pods_usd", "cost_fixed_usd"))
    parts = [f"pods {usd(pods)}, fixed {usd(fixed)}"] if math.isfinite(pods + fixed) else []
    parts.append(f"{usd(MONTH_DAYS * outcome.cost.mean)} in 30 days")
    parts.append(f"SLO attainment {worded('slo_attainment', outcome.attainment.mean, data.objective)}")
    return "; ".join(parts)


def _measured_anywhere(name: str, outcomes: Sequence[Outcome]) -> bool:
    return any(math.isfinite(outcome.indicator(name).mean) for outcome in outcomes)


def _comparison_table(outcomes: list[Outcome], objective: float) -> Table | None:
    if not outcomes:
        return None
    names = [name for name in _MAIN_INDICATORS if _measured_anywhere(name, outcomes)]
    columns = [INDICATOR_TITLES[name] for name in names]
    baseline = baseline_of(outcomes)
    columns[1:1] = [_AGAINST] if baseline is not None else []
    columns.insert(columns.index("SLO attainment") + 1 if "SLO attainment" in columns else len(columns), "SLO")
    winner = cheapest_that_keeps([o for o in outcomes if o.role != "clairvoyant"], objective)
    rows = []
    for outcome in outcomes:
        by_title = {INDICATOR_TITLES[name]: _cell(name, outcome.indicator(name), objective) for name in names}
        by_title[_AGAINST] = _relative_cost(outcome, baseline)
        tone, words = slo_status(outcome, objective)
        by_title["SLO"] = Cell(words, key=words, tone=tone)
        note = outcome.policy if outcome.policy.lower().replace("_", "-") not in _PLAIN_NAMES else ""
        note = "" if note.lower() == outcome.label.lower() else note
        settings = ", ".join(figures.setting_words(value) for value in outcome.settings.values())
        unfolds = settings if len(settings) > _MOST_LETTERS else ""
        note = ", ".join(filter(None, [note, "" if unfolds else settings]))
        mark = "best" if outcome is winner else ""
        cells = [by_title[title] for title in columns]
        rows.append(Row(outcome.label, note, outcome.style.color, cells, mark, unfolds))
    return Table(columns, rows)


def _indicator_table(outcomes: list[Outcome], objective: float) -> Table | None:
    names = [name for name in INDICATOR_TITLES if _measured_anywhere(name, outcomes)]
    if not names:
        return None
    rows = [
        Row(INDICATOR_TITLES[name], name, "", [_cell(name, o.indicator(name), objective) for o in outcomes])
        for name in names
    ]
    return Table([outcome.label for outcome in outcomes], rows)


def _class_table(outcomes: list[Outcome], classes: pd.DataFrame | None) -> Table | None:
    """SLO attainment of each class of requests under each policy; None where one class is all there is."""
    if not outcomes or classes is None or not len(classes) or classes["request_class"].nunique() < 2:
        return None
    rows = []
    for name, of_class in classes.groupby("request_class", sort=False):
        promised = of_class.iloc[0]
        slo = f"{objective_text(promised['slo_objective'])} within {seconds(promised['latency_threshold_s'])}"
        by_policy = {str(record["policy"]): record for record in of_class.to_dict("records")}
        cells = [_class_cell(by_policy[outcome.policy], float(promised["slo_objective"])) for outcome in outcomes]
        rows.append(Row(str(name), slo, "", cells))
    return Table([outcome.label for outcome in outcomes], rows)


def _class_cell(record: Mapping[Any, Any], objective: float) -> Cell:
    attainment, p95, errors = (estimate_of(record, name) for name in ("slo_attainment", "latency_p95_s", "error_ratio"))
    if not math.isfinite(attainment.mean):
        return Cell(NOTHING, "no requests")
    tone, _ = attainment_status(attainment, objective)
    limits = interval_words("slo_attainment", attainment, objective)
    note = [limits, f"p95 {seconds(p95.mean)}", f"errors {worded('error_ratio', errors.mean, objective)}"]
    text = worded("slo_attainment", attainment.mean, objective)
    return Cell(text, ", ".join(filter(None, note)), attainment.mean, tone)


def _sweep_table(configurations: list[Outcome], data: ReportData) -> Table | None:
    if not configurations:
        return None
    objective = data.objective
    names = [name for name in _SWEEP_INDICATORS if _measured_anywhere(name, configurations)]
    settings = list(dict.fromkeys(name for outcome in configurations for name in outcome.settings))
    decisions = at_worst(configurations)
    front = pareto_front([o.cost.mean for o in decisions], [o.attainment.mean for o in decisions])
    on_front = {decisions[i].label for i in front}
    best, chosen = cheapest_that_keeps(decisions, objective), recommended_of(data, decisions)
    rows = []
    ranked = sorted(_best_first(decisions, objective), key=lambda i: decisions[i] is not chosen)
    place = {decisions[i].label: n for n, i in enumerate(ranked)}
    for outcome in sorted(configurations, key=lambda outcome: place[outcome.label])[:MAX_SWEEP_ROWS]:
        tone, words = slo_status(outcome, objective)
        cells = [_cell(name, outcome.indicator(name), objective) for name in names]
        cells.append(Cell(words, key=words, tone=tone))
        cells.append(Cell("yes" if outcome.label in on_front else "", key=0 if outcome.label in on_front else 1))
        cells += [_setting_cell(outcome.settings.get(name)) for name in settings]
        marks = {o.label: mark for o, mark in ((chosen, "recommended"), (best, "best")) if o is not None}
        mark = marks.get(outcome.label, "")
        rows.append(Row(outcome.label, "", outcome.style.color, cells, mark))
    titles = [name.replace("_", " ") for name in settings]
    return Table([*(INDICATOR_TITLES[name] for name in names), "SLO", "Pareto front", *titles], rows)


def _best_first(configurations: list[Outcome], objective: float) -> list[int]:
    def rank(i: int) -> tuple[int, float]:
        outcome = configurations[i]
        if not outcome.measured:
            return 2, 0.0
        return (0, outcome.cost.mean) if keeps_slo(outcome, objective) else (1, -outcome.attainment.mean)

    return sorted(range(len(configurations)), key=rank)


def _cell(name: str, estimate: Estimate, objective: float) -> Cell:
    key = estimate.mean if math.isfinite(estimate.mean) else None
    limits = interval_words(name, estimate, objective).split(" to ")
    note = " to ".join(limit.replace(" ", "\u00a0") for limit in limits)  # breaks between the limits only
    return Cell(worded(name, estimate.mean, objective), note, key)


def _relative_cost(outcome: Outcome, baseline: Outcome | None) -> Cell:
    if baseline is None or not outcome.measured or not baseline.cost.mean > 0.0:
        return Cell(NOTHING)
    if outcome is baseline:
        return Cell("baseline", key=0.0)
    whole = outcome.cost.mean / baseline.cost.mean - 1.0
    saved = saved_against(outcome, baseline)
    if saved is None:
        return Cell(f"{_signed(whole)} in all", key=whole)
    return Cell(_signed(-saved.replica_hours_share), f"{_signed(whole)} in all", -saved.replica_hours_share)


def _signed(share: float) -> str:
    return f"{'+' if share >= 0 else '−'}{percent(abs(share))}"


def _setting_cell(value: Any) -> Cell:
    if value is None:
        return Cell(NOTHING)
    text = figures.setting_words(value)
    return Cell(text, key=float(value) if isinstance(value, int | float | np.number) else text)


def _facts(values: Mapping[str, Any], prefix: str = "", unit: str = "") -> list[tuple[str, str]]:
    """Nested plain data as lines of (name, text); what is named `_s`, or stands under such a name, is read as a time."""
    facts: list[tuple[str, str]] = []
    for name, value in values.items():
        title = f"{prefix}{str(name).removesuffix('_per_s').removesuffix('_s').replace('_', ' ')}"
        if isinstance(value, Mapping):
            facts += _facts(value, f"{title}: ", "_s" if str(name).endswith("_s") else "")
        elif value is not None:
            facts.append((title, _fact_words(f"{name}{unit}", value)))
    return facts


def _fact_words(name: str, value: Any) -> str:
    if isinstance(value, list | tuple | set | np.ndarray):
        return ", ".join(_fact_words(name, item) for item in value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return str(value)
    if name.endswith("_per_s"):
        return f"{number(float(value))} req/s"
    if name in _DURATIONS:
        return format_duration(float(value))
    if name.endswith("_s"):
        return seconds(float(value))
    return str(value) if isinstance(value, int | np.integer) else f"{value:.6g}"


def _with_durations(spec: Any) -> Any:
    """A specification as people write it: its durations as 7d, not as seconds."""
    if isinstance(spec, Mapping):
        return {
            name: format_duration(float(value))
            if name in _DURATIONS and isinstance(value, int | float)
            else _with_durations(value)
            for name, value in spec.items()
        }
    return [_with_durations(item) for item in spec] if isinstance(spec, list | tuple) else spec


def _commands(commands: Any) -> list[tuple[str, str]]:
    if isinstance(commands, Mapping):
        return [(str(name), str(command)) for name, command in commands.items()]
    return [("", str(command)) for command in commands or []]


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
