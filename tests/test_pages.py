"""What Prefect's pages are given, and that a run goes on without them."""

from __future__ import annotations

import logging
import re

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.pages import ShownProgress, key_of, publish, summary
from flows.servers.processes import free_port


def sweep_document(configurations: int) -> dict:
    """A document of a sweep with so many configurations, of which the last is the best."""
    rows = [
        {
            "configuration_key": f"k{n}",
            "label": f"static replicas={n}",
            "seeds": 2,
            "indicators": {"cost_usd": {"mean": float(n)}, "slo_attainment": {"mean": None}},
        }
        for n in range(configurations)
    ]
    best = {"configuration_key": rows[-1]["configuration_key"], "label": rows[-1]["label"], "reason": "least of all"}
    return {
        "command": "sweep",
        "name": "My sweep_1",
        "profile": "production",
        "configurations": rows,
        "best": best,
        "points": {"total": 2, "resumed": 0, "simulated": 2},
        "report": "/state/reports/a.html",
        "mlflow": {
            "uri": "sqlite:////state/mlflow.db",
            "run_id": "r1",
            "page": "http://127.0.0.1:5000/#/experiments/7/runs/r1",
        },
        "state": "/state",
        "seconds": {"total": 1.5},
    }


@pytest.mark.parametrize("name", ["demo", "My sweep_1", "größer/als", "", "--"])
def test_a_key_holds_only_what_prefect_takes(name):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key_of(name, "summary"))


def test_a_summary_shows_the_best_first_and_says_what_it_leaves_out():
    lines = summary(sweep_document(40)).splitlines()
    rows = [line for line in lines if line.startswith("| static")]
    assert rows[0] == "| static replicas=39 | 39.00 |  |"
    assert len(rows) == 20
    assert any("20 more are in the artifact `my-sweep-1-configurations`" in line for line in lines)
    for words in ("least of all", "/state/reports/a.html", "/experiments/7/runs/r1", "state folder: /state"):
        assert words in "\n".join(lines)


@pytest.mark.filterwarnings("ignore:Artifact creation outside")
def test_a_run_goes_on_where_prefect_takes_nothing(caplog):
    """Nobody listens at the address: a warning, and no exception."""
    nowhere = {PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}
    with temporary_settings(nowhere), caplog.at_level(logging.WARNING, "devops_sim.flows"):
        publish(sweep_document(2))
        ShownProgress("sweep", 2).update(2)
    assert len([record for record in caplog.records if "did not take" in record.message]) == 2
