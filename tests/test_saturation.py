"""Services that were offered more than their pods serve are named, whichever engine played."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from experiments.report import write_report
from flows.cli import app
from flows.inputs import warn_of_saturation
from sim_core.engines import NAMES
from sim_core.profile import Profile, load_profile
from sim_core.saturation import saturated_services
from sim_core.simulation import simulate
from sim_core.world import Lane, Scaler
from tests.conftest import flat
from tests.test_report import report_data

IO_S = 0.4
WAITING = {  # 4 workers that wait most of the time: a pod serves 4 / 0.425 s = 9.4 calls/s and could compute 40
    "services.api.container.io_seconds_per_request": IO_S,
    "services.api.container.workers": 4,
    "services.api.queries": {},
    "slo.latency_threshold_seconds": 1.0,
    "database": None,
    "cache": None,
}


def offered(profile: Profile, rate_per_s: float, replicas: int, engine: str) -> tuple[pd.DataFrame, list[str]]:
    lanes = [Lane(profile, flat(rate_per_s), seed, scaler=Scaler.static(replicas)) for seed in range(2)]
    services = simulate(lanes, 300.0, engine=engine).services
    return services, saturated_services(services, profile)


@pytest.mark.parametrize("engine", NAMES)
def test_too_few_pods_are_told_with_what_they_were_offered(steady, engine):
    """A pod of production has one core and 25 ms a call: two of them serve 80 calls/s, and 96 are 120 %, without retries.
    They are not saturated at 85 %, however long calls wait."""
    services, (sentence,) = offered(steady, 96.0, 2, engine)
    assert services["offered_load"].mean() == pytest.approx(1.2, abs=0.03)  # 5 standard errors of 57,600 arrivals
    assert (
        sentence == f"api was saturated: offered {100.0 * services['offered_load'].mean():.0f} % of what its pods serve"
    )
    services, sentences = offered(steady, 68.0, 2, engine)
    assert services["offered_load"].mean() == pytest.approx(0.85, abs=0.03) and sentences == []


@pytest.mark.parametrize("engine", NAMES)
def test_workers_that_wait_saturate_a_service_whose_cpu_is_idle(steady, engine):
    """Two pods hold 8 calls: 24 a second ask for 24 * 0.425 / 8 = 128 %."""
    services, (sentence,) = offered(steady.with_overrides(WAITING), 24.0, 2, engine)
    assert services["utilization"].mean() < 0.6
    assert services["offered_load"].mean() == pytest.approx(24.0 * (IO_S + 0.025) / 8.0, rel=0.06)
    assert "offered 12" in sentence or "offered 13" in sentence


@pytest.mark.parametrize(
    ("figures", "sentences"),
    [
        ((math.nan, math.nan, math.nan), []),  # nobody called
        ((math.inf, math.nan, 1.0), ["api was saturated: it was called and had no ready pod"]),
        ((0.98, 0.995, 0.01), ["api was saturated: its pods were busy 100 % of the time and calls failed"]),
        ((0.98, 0.995, 0.0), []),
        ((1.19, 1.0, 0.2), ["api was saturated: offered 119 % of what its pods serve"]),
    ],
)
def test_what_is_said_of_figures(figures, sentences):
    """Utilization is of the request; here it is that of the limit, too."""
    names = ("offered_load", "utilization", "error_ratio")
    profile = load_profile("production")
    container = profile.services[0].container
    assert container.cpu_limit_cores == container.cpu_request_cores
    table = pd.DataFrame([{"lane": 0, "service": "api", **dict(zip(names, figures, strict=True))}])
    assert saturated_services(table, profile) == sentences


@pytest.mark.parametrize("engine", NAMES)
def test_a_run_warns_of_it_in_json_and_on_standard_error(tmp_path, engine):
    trace = tmp_path / "flat.csv"
    trace.write_text("t_seconds,requests_per_second\n0,200\n60,200\n120,200\n180,200\n")
    args = ["run", "production", "--policy", "static(replicas=2)", "--policy", "static(replicas=9)", "--no-track"]
    done = CliRunner().invoke(
        app, [*args, "--trace", str(trace), "--duration", "2m", "--engine", engine, "--json"], env={"COLUMNS": "200"}
    )
    (warning,) = json.loads(done.stdout)["warnings"]
    assert warning.startswith("static(replicas=2): api was saturated: offered ")
    assert f"Warning: {warning}" in done.stderr.splitlines()


def test_the_report_and_documents_name_the_policy(tmp_path):
    saturated = {"static": ["api was saturated: offered 119 % of what its pods serve"], "hpa": []}
    said: list[str] = []
    assert warn_of_saturation(saturated, said.append) == [f"static: {saturated['static'][0]}"]
    assert said == [f"Warning: static: {saturated['static'][0]}"]
    page = write_report(report_data(saturated=saturated), tmp_path / "report.html").read_text()
    assert page.count(f"static: {saturated['static'][0]}.") == 1


def test_offered_load_is_not_a_number_only_where_nobody_called(steady):
    services, sentences = offered(steady, 0.0, 2, "fluid")
    assert np.isnan(services["offered_load"]).all() and sentences == []
