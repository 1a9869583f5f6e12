"""Windows that roll with the date: the same day again resumes, another day is new work."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.planning.plan import make_plan
from experiments.planning.spec import load_spec, spec_from_dict
from flows.requests import SweepRequest, TrainingRequest
from flows.sweep import training_of
from sim_core.dates import end_of_window_s, seed_of, today
from sim_core.errors import InputError, SpecError, TraceError
from sim_core.workload import Trace, bundled_traffic
from sim_core.workload.rolling import FIRST_DATE, generated_until, last_part
from sim_core.workload.trace import COLUMNS

ROOT = Path(__file__).parents[1]
DAY_S, HOUR_S = 86_400.0, 3600.0
SUNDAY = dt.date(2026, 11, 22)
WEEK = dt.timedelta(days=7)
DIURNAL = bundled_traffic("diurnal")


def write_trace(path: Path, rates: np.ndarray, step_s: float) -> Path:
    rows = [f"{k * step_s:g},{rate:.6f}" for k, rate in enumerate(rates)]
    path.write_bytes(gzip.compress("\n".join([",".join(COLUMNS), *rows, ""]).encode()))
    return path


# --- Windows


def test_a_day_has_a_seed_and_a_beginning_in_utc():
    assert seed_of(SUNDAY) == 20261122
    assert end_of_window_s(dt.date(1970, 1, 2)) == DAY_S
    assert end_of_window_s(SUNDAY) == dt.datetime(2026, 11, 22, tzinfo=dt.UTC).timestamp()
    assert FIRST_DATE.weekday() == 0
    before, now, after = dt.datetime.now(dt.UTC).date(), today(), dt.datetime.now(dt.UTC).date()
    assert before <= now <= after


def test_the_last_part_of_a_trace_is_its_end():
    trace = Trace("file", 60.0, np.arange(100.0))
    np.testing.assert_array_equal(last_part(trace, 600.0).rates_per_s, np.arange(90.0, 100.0))
    np.testing.assert_array_equal(last_part(trace, 6000.0).rates_per_s, trace.rates_per_s)
    with pytest.raises(TraceError, match="file: lasts 100m, less than the last 1d that are asked for"):
        last_part(trace, DAY_S)


@given(
    day=st.integers(3, 30_000),
    days=st.integers(1, 4),
    seed=st.integers(0, 3),
    name=st.sampled_from(["diurnal", "spiky"]),
)
@settings(max_examples=20)
def test_windows_of_a_generator_are_views_of_one_endless_traffic(day, days, seed, name):
    """A window that begins three days earlier ends with it, and one that ends a day later holds it, to ten digits; the
    same date gives the same bits.
    """
    model, date = bundled_traffic(name), FIRST_DATE + dt.timedelta(days=day + days)
    window = generated_until(model, date, days * DAY_S, seed)
    assert window.digest == generated_until(model, date, days * DAY_S, seed).digest
    assert window.duration_s == days * DAY_S
    longer = generated_until(model, date, (days + 3) * DAY_S, seed)
    np.testing.assert_allclose(longer.rates_per_s[3 * 1440 :], window.rates_per_s, rtol=1e-10)
    later = generated_until(model, date + dt.timedelta(days=1), (days + 2) * DAY_S, seed)
    np.testing.assert_allclose(later.rates_per_s[1440:-1440], window.rates_per_s, rtol=1e-10)


def test_generated_days_fall_on_their_weekdays():
    """The first window is the traffic as it is generated without a date; years later a Sunday is still a Sunday."""
    first = generated_until(DIURNAL, FIRST_DATE + WEEK, 7 * DAY_S, seed=2)
    np.testing.assert_array_equal(first.rates_per_s, DIURNAL.generate(7 * DAY_S, seed=2).rates_per_s)
    changes = {"weekly": ((0.5, 0.2), (0.1, 0.0)), "bursts": DIURNAL.bursts.model_copy(update={"per_day": 0.0})}
    for noise in ("slow_noise", "fast_noise"):
        changes[noise] = getattr(DIURNAL, noise).model_copy(update={"deviation": 0.0})
    regular = DIURNAL.model_copy(update=changes)  # every week is like the other
    since_monday_s = (np.arange(7 * 1440) + 0.5) * 60.0
    for weekday in range(7):
        window = generated_until(regular, FIRST_DATE + 1000 * WEEK + dt.timedelta(days=weekday), DAY_S, seed=2)
        week = np.exp(regular.expected_log_rate(since_monday_s)).reshape(7, 1440)
        day = week[weekday - 1]  # it ends when the day begins
        np.testing.assert_allclose(window.rates_per_s / window.rates_per_s[0], day / day[0], rtol=1e-9)


def test_a_window_before_the_first_day_is_refused():
    with pytest.raises(InputError, match="must not begin before 1970-01-05"):
        generated_until(DIURNAL, FIRST_DATE, DAY_S, seed=0)


def test_a_growing_generator_grows_within_a_window_only():
    """After fifty years of 5 % a day rates would be infinite: the trend begins where the window does."""
    growing = DIURNAL.model_copy(update={"trend_per_day": 0.05})
    window = generated_until(growing, SUNDAY, 4 * DAY_S, seed=0)
    still = generated_until(DIURNAL, SUNDAY, 4 * DAY_S, seed=0)
    ratio = window.rates_per_s / still.rates_per_s
    np.testing.assert_allclose(ratio, ratio[0] * np.exp(0.05 * np.arange(len(ratio)) / 1440), rtol=1e-9)


# --- Trainings


def rolling(**changes: object) -> TrainingRequest:
    given = {"profile": "production", "last": "3d", "seed": None, "date": SUNDAY, "steps": 1000}
    return TrainingRequest(**(given | changes))


def test_a_training_of_the_same_date_resumes_and_of_another_date_is_new():
    """Its key is the folder that it resumes from: traffic and seed of the date decide it, and nothing of the clock."""
    job, again, later = rolling().resolve(), rolling().resolve(), rolling(date=SUNDAY + WEEK).resolve()
    assert (job.key, job.seed) == (again.key, 20261122)
    assert later.key != job.key
    assert later.trace.digest != job.trace.digest
    assert later.seed == 20261129
    given, given_later = rolling(seed=5).resolve(), rolling(seed=5, date=SUNDAY + WEEK).resolve()
    assert given.seed == given_later.seed == 5  # a seed that was given stays; the traffic moves on
    assert given.key != given_later.key


def test_a_rolling_training_keeps_the_last_day_back():
    """It learns on all but the last day of its window; `--held-out 12h` keeps back less."""
    job = rolling().resolve()
    assert (job.start_s, job.end_s, job.held_out_s) == (0.0, 2 * DAY_S, DAY_S)
    assert job.trace.duration_s == 3 * DAY_S
    half = rolling(held_out="12h").resolve()
    assert (half.end_s, half.held_out_s) == (2.5 * DAY_S, 0.5 * DAY_S)
    with pytest.raises(InputError, match="must leave at least 3600 s to train on"):
        rolling(last="1d").resolve()
    with pytest.raises(InputError, match="--start and --duration reach to"):
        rolling(duration="4d").resolve()


def test_without_a_date_the_present_day_decides(monkeypatch):
    monkeypatch.setattr("sim_core.dates.today", lambda: SUNDAY)
    assert rolling(date=None).resolve().key == rolling().resolve().key
    assert TrainingRequest(profile="production", seed=None).resolve().seed == 20261122


def test_a_file_ends_now_whatever_the_date(tmp_path):
    """The last two hours of a file of ten; when the file has grown, the window has moved."""
    rates = np.linspace(50.0, 90.0, 600)
    file = write_trace(tmp_path / "ours.csv.gz", rates[:540], 60.0)
    request = rolling(trace=str(file), last="3h", held_out="1h", seed=1)
    job = request.resolve()
    np.testing.assert_allclose(job.trace.rates_per_s, rates[360:540], atol=1e-6)
    assert (job.end_s, job.held_out_s) == (2 * HOUR_S, HOUR_S)
    assert job.key == request.model_copy(update={"date": SUNDAY + WEEK}).resolve().key
    write_trace(file, rates, 60.0)
    grown = request.resolve()
    np.testing.assert_allclose(grown.trace.rates_per_s, rates[-180:], atol=1e-6)
    assert grown.key != job.key
    with pytest.raises(TraceError, match="lasts 10h, less than the last 1d that are asked for"):
        rolling(trace=str(file), last="1d").resolve()


def test_a_training_that_does_not_roll_keeps_back_what_follows(tmp_path):
    """A day after the seven of a generator; of a file, what the second half has; with less than an hour, nothing."""
    job = TrainingRequest(profile="production").resolve()
    assert (job.end_s, job.held_out_s, job.trace.duration_s) == (7 * DAY_S, DAY_S, 8 * DAY_S)
    file = str(write_trace(tmp_path / "day.csv.gz", np.full(480, 80.0), 60.0))
    halves = TrainingRequest(profile="production", trace=file).resolve()
    assert (halves.end_s, halves.held_out_s) == (4 * HOUR_S, 4 * HOUR_S)
    whole = TrainingRequest(profile="production", trace=file, duration="7h30m").resolve()
    assert (whole.end_s, whole.held_out_s) == (7.5 * HOUR_S, 0.0)


# --- Sweeps


def spec_of(**traffic: object) -> dict:
    return {
        "name": "rolling",
        "profile": "production",
        "traffic": {
            "generator": "diurnal",
            "scale_peak_to_replicas": 6,
            "last": "3d",
            "train": {"start": "0d", "duration": "2d"},
            "evaluate": {"start": "2d", "duration": "1d"},
        }
        | traffic,
        "duration": "1d",
        "policies": [{"policy": "static", "replicas": [4, 6]}],
        "train": {"steps": 1000, "seed": None},
    }


def test_a_sweep_of_the_same_date_resumes_and_of_another_date_is_new(tmp_path):
    """The date is written into the specification as it runs, so that the sweep that is stored says what it was."""
    file = tmp_path / "rolling.yaml"
    file.write_text(yaml.safe_dump(spec_of()))
    spec = SweepRequest(spec=str(file), date=SUNDAY).resolve()
    assert (spec.traffic.date, spec.train.seed) == (SUNDAY, 20261122)
    plan, again = make_plan(spec), make_plan(SweepRequest(spec=str(file), date=SUNDAY).resolve())
    assert (plan.sweep_id, plan.keys, training_of(plan).key) == (again.sweep_id, again.keys, training_of(again).key)
    assert plan.trace.duration_s == 3 * DAY_S
    later = make_plan(SweepRequest(spec=str(file), date=SUNDAY + WEEK).resolve())
    assert not set(later.keys) & set(plan.keys)
    assert later.sweep_id != plan.sweep_id
    assert (training_of(later).seed, training_of(later).key == training_of(plan).key) == (20261129, False)
    assert make_plan(spec_from_dict(spec.to_dict())).sweep_id == plan.sweep_id


def test_the_present_day_decides_where_nothing_else_does(monkeypatch, tmp_path):
    for module in ("sim_core.dates", "experiments.planning.plan", "flows.sweep"):
        monkeypatch.setattr(f"{module}.today", lambda: SUNDAY)
    file = tmp_path / "rolling.yaml"
    file.write_text(yaml.safe_dump(spec_of()))
    dated = make_plan(SweepRequest(spec=str(file), date=SUNDAY).resolve())
    assert make_plan(SweepRequest(spec=str(file)).resolve()).sweep_id == dated.sweep_id
    undated = make_plan(load_spec(file))
    assert (undated.sweep_id, training_of(undated).key) == (dated.sweep_id, training_of(dated).key)
    file.write_text(yaml.safe_dump(spec_of(date=SUNDAY - WEEK)))  # a day that the specification names stays
    assert SweepRequest(spec=str(file)).resolve().traffic.date == SUNDAY - WEEK


def test_last_rolls_a_specification_that_does_not():
    """As the nightly deployment does with the demo: its windows lie in the last eight days, or in proportion in fewer."""
    spec = SweepRequest(spec="demo", last="8d", date=SUNDAY).resolve()
    assert (spec.traffic.last, spec.traffic.train.duration, spec.train.seed) == (8 * DAY_S, 7 * DAY_S, 1)
    assert make_plan(spec).trace.digest != make_plan(SweepRequest(spec="demo").resolve()).trace.digest
    shorter = SweepRequest(spec="demo", last="4d", date=SUNDAY).resolve()
    assert (shorter.traffic.train.duration, shorter.traffic.evaluate.start) == (3.5 * DAY_S, 3.5 * DAY_S)
    assert make_plan(shorter).trace.duration_s == 4 * DAY_S


def test_a_rolling_specification_takes_a_shorter_file(tmp_path):
    file = tmp_path / "rolling.yaml"
    file.write_text(yaml.safe_dump(spec_of()))
    trace = write_trace(tmp_path / "day.csv.gz", np.linspace(50.0, 90.0, 1440), 60.0)
    spec = SweepRequest(spec=str(file), trace=str(trace)).resolve()
    assert (spec.traffic.last, spec.traffic.train.duration, spec.traffic.evaluate.start) == (DAY_S, 57_600.0, 57_600.0)
    assert make_plan(spec).trace.duration_s == DAY_S
    with pytest.raises(TraceError, match="less than the last 2d"):
        make_plan(SweepRequest(spec=str(file), trace=str(trace), last="2d").resolve())


@pytest.mark.parametrize(
    ("traffic", "said"),
    [
        ({"date": "22.11.2026"}, "must be a date like 2026-11-22"),
        ({"date": "2026-11-22", "last": None}, "traffic.date: needs last, which looks back from it"),
        ({"prometheus": {"url": "http://h:9090", "query": "up"}}, "needs one of trace, generator and prometheus"),
        (
            {"generator": None, "last": None, "prometheus": {"url": "http://h:9090", "query": "up"}},
            "traffic.last: required by prometheus",
        ),
        ({"generator": None}, "needs one of trace, generator and prometheus (got 'none')"),
        ({"last": "-1d"}, "traffic.last"),
        ({"last": "1d"}, "traffic.train: must end within the trace, which lasts 86400 s"),
    ],
)
def test_a_specification_that_cannot_roll_is_refused(traffic, said):
    with pytest.raises(SpecError) as refused:
        make_plan(spec_from_dict(spec_of(**traffic)))
    assert said in str(refused.value)


# --- The deployments


def deployments() -> dict[str, dict]:
    return {one["name"]: one for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}


def test_the_weekly_training_is_new_every_week_and_resumes_within_one():
    """Each Sunday has traffic and a seed of its own, and a last day that the comparison before promotion is made on."""
    asked = deployments()["production"]["parameters"]["request"]
    jobs = [TrainingRequest(**asked, date=SUNDAY + k * WEEK).resolve() for k in range(3)]
    assert (
        len({job.key for job in jobs})
        == len({job.trace.digest for job in jobs})
        == len({job.seed for job in jobs})
        == 3
    )
    assert TrainingRequest(**asked, date=SUNDAY).resolve().key == jobs[0].key
    assert (jobs[0].end_s, jobs[0].held_out_s) == (7 * DAY_S, DAY_S)


def test_the_nightly_sweep_is_new_every_night():
    asked = deployments()["demo"]["parameters"]["request"] | {"spec": str(ROOT / "experiments/specs/demo.yaml")}
    nights = [make_plan(SweepRequest(**asked, date=SUNDAY + dt.timedelta(days=k)).resolve()) for k in range(2)]
    assert not set(nights[0].keys) & set(nights[1].keys)
    assert make_plan(SweepRequest(**asked, date=SUNDAY).resolve()).sweep_id == nights[0].sweep_id
