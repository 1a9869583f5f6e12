"""Short names of runs, and links to pages of MLflow."""

from __future__ import annotations

import json

import pytest

from experiments.analysis.naming import short_names
from experiments.store.links import UI_ADDRESS, address_of, runs_page, sweep_view

TARGET, DOWN, UP = (
    "target_cpu_utilization_pct",
    "scale_down_stabilization_window_seconds",
    "scale_up_stabilization_window_seconds",
)


@pytest.mark.parametrize(
    ("configurations", "names"),
    [
        ([("hpa", {TARGET: 60, DOWN: 300}), ("hpa", {TARGET: 70, DOWN: 300})], ["hpa 60 %", "hpa 70 %"]),
        ([("hpa", {TARGET: 60, DOWN: 300}), ("hpa", {TARGET: 70, DOWN: 60})], ["hpa 60 % / 300 s", "hpa 70 % / 60 s"]),
        ([("hpa", {UP: 0, DOWN: 60}), ("hpa", {UP: 30, DOWN: 300})], ["hpa up 0 s / down 60 s", "hpa up 30 s / down 300 s"]),
        ([("static", {"replicas": 12}), ("hpa", {TARGET: 60, DOWN: 300})], ["static 12 replicas", "hpa 60 % / 300 s"]),
        (
            [("static", {"replicas": 8, "database.max_connections": n}) for n in (450, 500)],
            ["static max_connections 450", "static max_connections 500"],
        ),
        ([("hpa", {"cache": None}), ("hpa", {"cache": 2e5})], ["hpa cache none", "hpa cache 200000"]),
        ([("hpa", {}), ("hpa", {TARGET: 60})], ["hpa default", "hpa 60 %"]),
        ([("clairvoyant", {})], ["clairvoyant"]),
    ],
)  # fmt: skip
def test_a_run_is_called_by_what_differs(configurations, names):
    """Settings that all configurations of a policy share are left out; units stand for the names where they suffice."""
    assert short_names(configurations) == names


def test_names_of_a_grid_are_all_different_early_on():
    grid = [("hpa", {TARGET: t, DOWN: d}) for t in (50, 60, 70) for d in (60, 300)]
    assert len({name[:18] for name in short_names(grid)}) == 6


def test_a_link_opens_a_sweep_with_its_figures_on_the_page_of_model_training():
    """What else MLflow would open: traces of GenAI, all runs of the experiment, and no figure in its table."""
    page = runs_page(address_of("sqlite:////tmp/mlflow.db"), "1", "demo-0a1b")
    assert page == f"{UI_ADDRESS}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=demo-0a1b"
    tag, state = sweep_view("demo-0a1b")
    assert tag == "mlflow.sharedViewState.demo-0a1b"
    assert json.loads(state)["searchFilter"] == 'tags.sweep_id = "demo-0a1b"'
    assert "metrics.`slo_attainment`" in json.loads(state)["selectedColumns"]
    assert address_of("http://mlflow:80/") == "http://mlflow:80"
