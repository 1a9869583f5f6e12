"""Figures of single services, and the time series of lanes: they add up to what the whole lane says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from agents.policies.contract import play
from agents.policies.hpa import HpaPolicy
from agents.policies.static import StaticPolicy
from experiments.timelines import check_place, check_step, write_timeline
from sim_core.errors import InputError
from sim_core.profile import load_profile
from sim_core.simulation import Worlds, simulate
from sim_core.world import Lane, Scaler
from tests.conftest import flat, spiky_day

STEP_S = 60.0


@pytest.fixture(scope="module")
def chain():
    """A profile of several services."""
    profile = load_profile("experimental")
    assert len(profile.services) > 1
    return profile


@pytest.fixture(scope="module")
def played(chain):
    """Two seeds of an odd length, which ends within a scrape interval and within a step of the timeline."""
    lanes = [Lane(chain, spiky_day(150.0), seed) for seed in (3, 4)]
    return simulate(lanes, 1007.0, STEP_S)


def test_services_add_up_to_the_lane(played, chain):
    """Replica-hours are those of all services together, and CPU use is that of each weighted by what it requested."""
    services = played.services.groupby("lane")
    assert list(played.services["service"]) == [service.name for service in chain.services] * 2
    np.testing.assert_allclose(services["replica_hours"].sum(), played.indicators["replica_hours"])
    low, high = services["utilization"].min(), services["utilization"].max()
    assert ((low <= played.indicators["utilization_mean"]) & (played.indicators["utilization_mean"] <= high)).all()
    requests = played.indicators["throughput_per_s"] * 1007.0
    for lane, rows in services:
        expected = requests[lane] * np.array([service.calls_per_request for service in chain.services])
        np.testing.assert_allclose(rows["calls"], expected, rtol=0.05)  # calls count retries too


def test_a_service_alone_has_the_use_of_its_lane(production):
    """With one service both are the same number; the account at scrapes and the open window together are complete."""
    worlds = Worlds([Lane(production, flat(300.0), 1, scaler=Scaler.static(10))])
    for seconds in (7, 8, 22, 1):  # within, at the end of, and after a scrape interval
        worlds.advance(seconds)
        (service,) = worlds.services().to_dict("records")
        (lane,) = worlds.indicators().to_dict("records")
        assert service["utilization"] == pytest.approx(lane["utilization_mean"], rel=1e-12)
        assert service["calls"] == pytest.approx(worlds.state["account"]["requests"][0], rel=0.01)
        assert service["replica_hours"] == pytest.approx(10 * float(worlds.time_s[0]) / 3600.0)


def test_the_timeline_of_services_adds_up_to_their_figures(played):
    """Calls, queue and latency of the steps, weighted by their length and calls, are the figures of the whole."""
    seconds = np.diff(played.timeline["time_s"], prepend=0.0)
    series = played.service_timeline
    calls = series["call_rate_per_s"] * seconds
    whole = played.services.set_index(["lane", "service"])
    np.testing.assert_allclose(calls.sum(axis=2).ravel(), whole["calls"])
    np.testing.assert_allclose((series["queue_len"] * seconds).sum(axis=2).ravel() / 1007.0, whole["queue_len"])
    latency_s = np.nansum(series["latency_mean_s"] * calls, axis=2) / calls.sum(axis=2)
    np.testing.assert_allclose(latency_s.ravel(), whole["latency_mean_s"])
    np.testing.assert_array_equal(series["replicas_ready"].sum(axis=1), played.timeline["replicas_ready"])


def test_a_service_that_was_not_called_has_calls_zero_and_no_latency(production):
    worlds = Worlds([Lane(production, flat(0.0), 1, scaler=Scaler.static(4))])
    worlds.advance(100)
    (service,) = worlds.services().to_dict("records")
    assert service["calls"] == service["queue_len"] == service["utilization"] == 0.0
    assert np.isnan(service["latency_mean_s"]) and np.isnan(service["error_ratio"])


@pytest.mark.parametrize("through_predict", [False, True])
def test_a_timeline_file_holds_every_lane_under_every_policy(chain, tmp_path, through_predict):
    """One row a policy, seed and step; what policies decide by `predict` is recorded at the same steps."""
    lanes = [Lane(chain, spiky_day(150.0), seed) for seed in (3, 4)]
    policies = [HpaPolicy(), StaticPolicy(4)]
    played = {p.name: play(lanes, p, 900.0, STEP_S, through_predict=through_predict) for p in policies}
    path = tmp_path / "series.parquet"
    names = [service.name for service in chain.services]
    write_timeline(path, played, [3, 4], names)
    table = pd.read_parquet(path)
    assert len(table) == 2 * 2 * 15
    assert list(table["time_s"].unique()) == [60.0 * k for k in range(1, 16)]
    rows = table[(table["policy"] == "hpa") & (table["seed"] == 4)]
    np.testing.assert_allclose(rows["latency_p95_s"], played["hpa"].timeline["latency_p95_s"][1])
    for place, name in enumerate(names):
        for column, values in played["hpa"].service_timeline.items():
            np.testing.assert_allclose(rows[f"services.{name}.{column}"], values[1, place])
    assert [file.name for file in tmp_path.iterdir()] == ["series.parquet"]  # no draft is left


def test_a_place_that_cannot_be_written_is_refused_before(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").write_text("")
    wrong = {
        "series.csv": "must end in .parquet",
        "folder.parquet": "is a folder",
        "no/such/series.parquet": "there is no folder",
        "file/series.parquet": "there is no folder",
    }
    for name, rule in wrong.items():
        with pytest.raises(InputError, match=rule):
            check_place(tmp_path / name)
    check_place(tmp_path / "series.parquet")


@pytest.mark.parametrize("step_s", [10.0, 20.0, 0.5, 7200.0])
def test_a_step_at_which_no_policy_decides_is_refused(production, step_s):
    with pytest.raises(InputError, match="--timeline-step: must be a multiple of the controller's sync period, 15 s"):
        check_step(step_s, production, 3600.0)
    check_step(45.0, production, 3600.0)
