"""The report on invented but plausible figures: what it claims, what it escapes, and that it needs no network."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.report import ReportData, comparison_text, write_pictures, write_report
from experiments.report.series import thin_extremes
from sim_core.errors import InputError

PROFILE = {
    "name": "production",
    "slo": {"objective": 0.999, "latency_threshold_seconds": 0.3},
    "services": [{"name": "api", "replicas": {"min": 3, "max": 40}, "cpu_request_cores": 0.5}],
    "prices": {"node_usd_per_h": 0.192},
}
TRAFFIC = {
    "name": "diurnal",
    "source": "bundled generator, seed 0",
    "mean_per_s": 612.4,
    "peak_per_s": 1380.0,
    "scale": "peak mapped to what 20 replicas serve at 70 % utilization",
    "windows": {"train": "day 0 to 7", "evaluate": "day 7 to 8"},
}
PROVENANCE = {
    "version": "0.1.0",
    "commit": "4f2a9c1",
    "seeds": {"sweep": "0 to 3", "training": 1, "evaluation": "100 to 109"},
    "trace_digest": "sha256:9d1c5f0be21a",
    "wall_s": {"sweep": 41.2, "training": 138.0, "evaluation": 12.9},
    "commands": {"MLflow": "devops-sim ui mlflow", "Prefect": "devops-sim ui prefect"},
}


def with_interval(name: str, mean: float, half: float) -> dict[str, float]:
    return {name: mean, f"{name}_ci95_low": mean - half, f"{name}_ci95_high": mean + half}


def indicators(cost_usd: float, attainment: float, p95_s: float, spread: float = 0.004) -> dict[str, float]:
    row: dict[str, float] = {}
    row |= with_interval("cost_usd", cost_usd, spread * cost_usd)
    row |= with_interval("slo_attainment", attainment, 0.12 * (1.0 - attainment))
    row |= with_interval("latency_p95_s", p95_s, 0.03 * p95_s)
    row |= with_interval("error_ratio", 0.3 * (1.0 - attainment), 0.03 * (1.0 - attainment))
    row |= with_interval("replica_hours", cost_usd / 0.096, spread * cost_usd / 0.096)
    row |= with_interval("utilization_mean", 0.55 * 40.0 / cost_usd, 0.004)
    return row


def sweep() -> pd.DataFrame:
    rows = []
    for replicas in (8, 12, 14, 16, 18, 20, 24):
        missed = 10.0 ** (-0.35 - 0.28 * max(0, replicas - 8))
        label, settings = f"static {replicas}", {"replicas": replicas}
        rows.append(
            {"configuration": label, "policy": "static", **settings, **indicators(2.5 * replicas, 1 - missed, 0.2)}
        )
    for target in range(40, 95, 10):
        for window in (0, 60, 300):
            cost = 21.0 + 1500.0 / target + window / 90.0
            missed = 10.0 ** (-4.6 + 0.055 * (target - 40) - window / 700.0)
            settings = {"target_utilization_pct": target, "scale_down_stabilization_window_seconds": window}
            label = f"hpa target {target} %, window {window} s"
            values = indicators(cost, 1 - missed, 0.11 + target / 900)
            rows.append({"configuration": label, "policy": "hpa", **settings, **values})
    return pd.DataFrame(rows)


def evaluation(**changes: dict[str, float]) -> pd.DataFrame:
    rows = {
        "static": {**indicators(50.1, 0.99993, 0.142), **with_interval("gap_closed", -0.41, 0.05)},
        "hpa-tuned": {**indicators(45.6, 0.99941, 0.188), **with_interval("gap_closed", 0.0, 0.0)},
        "clairvoyant": {**indicators(34.6, 0.99952, 0.201), **with_interval("gap_closed", 1.0, 0.0)},
        "agent": {**indicators(38.2, 0.99946, 0.196), **with_interval("gap_closed", 0.67, 0.04)},
    }
    return pd.DataFrame([{"policy": policy, **row, **changes.get(policy, {})} for policy, row in rows.items()])


def timeline(policy: str, step_s: float = 15.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    time_s = np.arange(0.0, 86_400.0, step_s)
    shape = 0.55 - 0.42 * np.cos(2 * np.pi * (time_s - 3 * 3600) / 86_400) + 0.09 * np.sin(2 * np.pi * time_s / 21_600)
    bursts = sum(0.35 * np.exp(-(((time_s - at) / 700.0) ** 2)) for at in (31_000, 52_000, 68_500))
    load = 1300.0 * (shape + bursts) * random.normal(1.0, 0.03, time_s.size)
    ahead_s = {"agent": 90.0, "clairvoyant": 240.0, "static": 0.0}.get(policy, -120.0)
    slack = {"agent": 1.25, "clairvoyant": 1.15, "static": 1.0}.get(policy, 1.45)
    smooth = pd.Series(load).rolling(20, center=True, min_periods=1).mean().to_numpy()
    desired = np.ceil(slack * np.interp(time_s + ahead_s, time_s, smooth) / 78.0)
    desired = np.full(time_s.size, 24.0) if policy == "static" else np.repeat(desired[::8], 8)[: time_s.size]
    ready = np.concatenate([desired[:3], desired[:-3]])
    utilization = np.clip(load / (ready * 78.0), 0.0, 1.2)
    p95_s = 0.09 + 0.03 / np.clip(1.18 - utilization, 0.03, None) * random.gamma(20, 1 / 20, time_s.size)
    return {
        "time_s": time_s,
        "load_per_s": load,
        "replicas_ready": ready,
        "replicas_desired": desired,
        "latency_p95_s": p95_s,
        "utilization": utilization,
    }


def learning_curve() -> pd.DataFrame:
    random = np.random.default_rng(3)
    step = np.arange(8192, 500_001, 8192)
    learned = 1.0 - np.exp(-step / 90_000.0)
    return pd.DataFrame(
        {
            "step": step,
            "rollout/ep_rew_mean": -310.0 + 190.0 * learned + random.normal(0, 6, step.size),
            "rollout/cost_usd": 61.0 - 22.0 * learned + random.normal(0, 0.8, step.size),
            "rollout/slo_attainment": np.clip(0.981 + 0.0184 * learned + random.normal(0, 0.0008, step.size), 0, 1),
            "wall_s": step / 3600.0,
        }
    )


def report_data(**changes: Any) -> ReportData:
    data = ReportData(
        title="Autoscaler for production",
        profile=PROFILE,
        spec={"name": "demo", "profile": "production", "seeds": {"first": 0, "count": 4}},
        traffic=TRAFFIC,
        sweep=sweep(),
        evaluation=evaluation(),
        timelines={policy: timeline(policy) for policy in ("static", "hpa-tuned", "clairvoyant", "agent")},
        learning_curve=learning_curve(),
        provenance=PROVENANCE,
    )
    return dataclasses.replace(data, **changes)


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data()


@pytest.fixture(scope="module")
def page(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(data, tmp_path_factory.mktemp("report") / "report.html")


class _References(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")]


def test_the_page_needs_no_network(page: Path):
    """No script, style, picture or link points anywhere but into the page; and it stays small enough to forward."""
    text = page.read_text()
    references = _References()
    references.feed(text)
    assert [link for link in references.found if not link.startswith(("#", "data:"))] == []
    assert "link" not in references.tags and "iframe" not in references.tags
    styles = "".join(re.findall(r"<style[^>]*>(.*?)</style>", text, flags=re.S))
    assert "@import" not in styles and "url(http" not in styles
    assert page.stat().st_size < 8_000_000


def test_the_words_say_who_wins(data: ReportData):
    text = comparison_text(data)
    assert "trained agent keeps the 99.9 % SLO at the least cost, $38.20 a day" in text
    assert "67 % of the way from the tuned HPA" in text


def test_the_words_say_when_the_agent_loses():
    worse = evaluation(agent={**indicators(47.9, 0.9995, 0.19), **with_interval("gap_closed", -0.21, 0.03)})
    text = comparison_text(report_data(evaluation=worse))
    assert "tuned HPA keeps the 99.9 % SLO at the least cost, $45.60 a day" in text
    assert "more than the tuned HPA" in text


def test_the_words_say_when_the_slo_is_missed():
    missing = evaluation(agent={**indicators(30.0, 0.991, 0.4), **with_interval("gap_closed", 1.4, 0.03)})
    text = comparison_text(report_data(evaluation=missing))
    assert "trained agent misses the SLO" in text
    assert "not at equal SLO attainment" in text
    assert "trained agent keeps" not in text


def test_a_page_without_an_agent_an_evaluation_or_points_is_still_a_page(tmp_path: Path):
    hpa_only = evaluation().query("policy != 'agent'")
    for number, changes in enumerate(
        (
            {"evaluation": hpa_only, "learning_curve": None},
            {"evaluation": None, "timelines": {}, "learning_curve": None},
            {"sweep": sweep().iloc[:0], "evaluation": None, "timelines": {}, "learning_curve": None},
            {"spec": None},
        )
    ):
        data = report_data(**changes)
        assert comparison_text(data).strip()
        text = write_report(data, tmp_path / f"{number}.html").read_text()
        assert text.startswith("<!doctype html>") or text.startswith("<!DOCTYPE html>")
        assert "NaN" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_one_seed_has_no_interval_and_nan_is_no_number(tmp_path: Path):
    """An interval that is NaN (one seed) leaves the mean alone; the page says nothing of plus or minus NaN."""
    table = evaluation()
    for column in [name for name in table if name.endswith(("_low", "_high"))]:
        table[column] = np.nan
    data = report_data(evaluation=table)
    assert "nan" not in comparison_text(data).lower()
    page = re.sub(r"<(script|style).*?</\1>", "", write_report(data, tmp_path / "r.html").read_text(), flags=re.S)
    assert re.search(r"\bnan\b", page, flags=re.I) is None


def test_names_cannot_inject_markup(tmp_path: Path):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    table = evaluation()
    table.loc[table["policy"] == "static", "policy"] = hostile
    data = report_data(
        title=hostile, profile={**PROFILE, "name": hostile}, traffic={**TRAFFIC, "name": hostile}, evaluation=table
    )
    text = write_report(data, tmp_path / "hostile.html").read_text()
    assert "<script>alert(1)" not in text
    assert "<img src=x" not in text


def test_nothing_half_written_where_the_folder_is_no_folder(data: ReportData, tmp_path: Path):
    blocker = tmp_path / "file"
    blocker.write_text("here already")
    with pytest.raises(InputError):
        write_report(data, blocker / "report.html")
    assert blocker.read_text() == "here already"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_second_report_takes_the_place_of_the_first(data: ReportData, tmp_path: Path):
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(data, title="first"), path)
    write_report(dataclasses.replace(data, title="second"), path)
    assert "second" in path.read_text()[:20_000] or "second" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_pictures_are_drawn_as_far_as_there_is_data(data: ReportData, tmp_path: Path):
    drawn = write_pictures(data, tmp_path / "all")
    assert sorted(path.name for path in drawn) == ["learning_curve.png", "pareto.png", "timeline.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000 for path in drawn)
    few = write_pictures(report_data(timelines={}, learning_curve=None), tmp_path / "few")
    assert [path.name for path in few] == ["pareto.png"]


def test_thinning_keeps_every_peak_it_can():
    """The extremes of a day of 15 s steps are in the thinned line, to the value."""
    day = timeline("agent")
    time, thinned = thin_extremes(day["time_s"], day["latency_p95_s"], 1000)
    assert len(time) == len(thinned) <= 1100
    assert thinned.max() == day["latency_p95_s"].max()
    assert thinned.min() == day["latency_p95_s"].min()
    assert (np.diff(time) > 0).all()
