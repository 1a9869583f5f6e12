"""Traffic that resembles a real trace: a model with fitted parameters, and the fit.

The log of the base rate is a level with a trend, daily and weekly harmonics, spikes at fixed times of day, slow and fast
autocorrelated noise. Bursts at random times come on top: a crowd adds its requests to whatever the day brings anyway.
Parameters are facts about a trace; no data of it is kept.
"""

from __future__ import annotations

import math
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import yaml
from pydantic import Field

from sim_core.bundled import TRAFFICS, check_traffic, names_in
from sim_core.documents import Number, Section, read_yaml, validate
from sim_core.errors import InputError, TraceError
from sim_core.units import parse_duration
from sim_core.workload.trace import Trace, read_trace

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
DAILY_HARMONICS = 8
WEEKLY_HARMONICS = 2
MAX_SPIKES = 48
DEFAULT = "diurnal"
_BURST_WINDOWS_S = (3600.0, 43_200.0)  # a burst rises above the median of minutes around it, a surge above half a day
_HIGHEST = 5.0  # spike, of the log rate: 150 times the rate before it
_REMEMBERED = 28.0  # times of decay, after which 1e-12 is left
_SMALL = 1e-3  # of the mean rate: what counts as no traffic when logs are taken

Pair = Annotated[tuple[float, float], Field(strict=False)]


class Spike(Section):
    """A rise that comes back every day."""

    time_of_day_s: Number = Field(ge=0, lt=DAY_S, description="When it is highest [s after midnight].")
    height: Number = Field(ge=-_HIGHEST, le=_HIGHEST, description="Of the log rate [1].")
    width_s: Number = Field(gt=0, le=DAY_S, description="Standard deviation of its shape [s].")


class Noise(Section):
    """A first-order autoregressive process on the log rate."""

    deviation: Number = Field(ge=0, le=5, description="Standard deviation of the log rate [1].")
    correlation_s: Number = Field(gt=0, le=WEEK_S, description="Time in which correlation falls to 1/e [s].")


class Bursts(Section):
    """Rises at random times that decay exponentially."""

    per_day: Number = Field(ge=0, le=1000, description="Mean number a day.")
    height_mean: Number = Field(
        ge=0, le=1000, description="Mean height over the mean base rate [1]; gamma distributed."
    )
    height_shape: Number = Field(default=4.0, ge=1, le=1000, description="Shape of the gamma distribution [1].")
    decay_s: Number = Field(gt=0, le=DAY_S, description="Time in which one falls to 1/e [s].")


class TrafficModel(Section):
    """Parameters of generated traffic; `sim_core/workload/models/` holds the bundled ones."""

    name: str = Field(min_length=1, description="For people.")
    source: str = Field(min_length=1, description="The trace it was fitted to, and that trace's licence.")
    mean_per_s: Number = Field(gt=0, description="Mean rate, where the trend begins [1/s].")
    trend_per_day: Number = Field(default=0.0, ge=-1, le=1, description="Change of the log rate a day [1/day].")
    daily: tuple[Pair, ...] = Field(strict=False, description="(cosine, sine) of the log rate, harmonics of a day.")
    weekly: tuple[Pair, ...] = Field(strict=False, description="(cosine, sine) of the log rate, harmonics of a week.")
    spikes: tuple[Spike, ...] = Field(default=(), strict=False, description="What comes back every day.")
    slow_noise: Noise = Field(description="Hours: one day is not like another.")
    fast_noise: Noise = Field(description="Minutes.")
    bursts: Bursts = Field(description="What nobody foresees.")

    def generate(self, duration_s: float, seed: int, step_s: float = 60.0, first_day: int = 0) -> Trace:
        """Traffic from midnight on; day 0 is a Monday.

        The same seed gives the same traffic, and a longer duration extends the shorter one. A later first day shows the
        same endless traffic from there on (noise to twelve digits); its trend begins there.

        Args:
            duration_s: at least two steps [s]; rounded up to whole steps.
            step_s: a divisor of a day [s].
            first_day: where to begin, 0 or more [days].

        Raises:
            InputError: the duration or the step is out of range.
        """
        per_day = round(DAY_S / step_s) if step_s > 0.0 else 0
        if per_day < 1 or abs(per_day * step_s - DAY_S) > 1e-6:
            raise InputError("step", f"must divide a day (got {step_s:g} s)")
        n = math.ceil(duration_s / step_s - 1e-9) if math.isfinite(duration_s) else 0
        if n < 2:
            raise InputError("duration", f"must be at least two steps of {step_s:g} s (got {duration_s:g} s)")
        # Noise of the days before reaches into the first one.
        before = min(first_day, math.ceil(_REMEMBERED * self._memory_s() / DAY_S))
        n_days = before + math.ceil(n / per_day)
        times = (np.arange(n_days * per_day) + 0.5) * step_s
        monday_s = (first_day - before) % 7 * DAY_S  # since the last one
        trend_s = times - before * DAY_S
        log_rate = self.expected_log_rate(monday_s + times) - self.trend_per_day * (monday_s + before * DAY_S) / DAY_S
        streams = [np.random.default_rng([seed, first_day - before + day]) for day in range(n_days)]
        for noise in (self.slow_noise, self.fast_noise):
            log_rate += _autoregressive(noise, streams, per_day, step_s)
        base = np.exp(log_rate) / self._mean_base()
        rates = base + np.exp(self.trend_per_day * trend_s / DAY_S) * self._burst_shape(streams, per_day, step_s)
        rates *= self.mean_per_s / (1.0 + self._mean_of_bursts(step_s))
        skipped = before * per_day
        return Trace(f"{self.name} (seed {seed})", step_s, rates[skipped : skipped + n])

    def _memory_s(self) -> float:
        """The longest time in which anything random fades to 1/e [s]."""
        return max(self.slow_noise.correlation_s, self.fast_noise.correlation_s, self.bursts.decay_s)

    def expected_log_rate(self, times_s: np.ndarray) -> np.ndarray:
        """Log of the rate over the mean rate without noise and bursts, same shape as `times_s` [s after Monday 00:00]."""
        log_rate = self.trend_per_day * times_s / DAY_S
        for period, pairs in ((DAY_S, self.daily), (WEEK_S, self.weekly)):
            for k, (cosine, sine) in enumerate(pairs, start=1):
                angle = 2.0 * math.pi * k * times_s / period
                log_rate = log_rate + cosine * np.cos(angle) + sine * np.sin(angle)
        return log_rate + _spike_shape(self.spikes, times_s % DAY_S)

    def _mean_base(self) -> float:
        """Mean of the exponentiated log rate without its trend: of a week, and of log-normal noise."""
        week = np.arange(0, WEEK_S, 60.0) + 30.0
        expected = float(np.mean(np.exp(self.expected_log_rate(week) - self.trend_per_day * week / DAY_S)))
        return expected * math.exp(0.5 * (self.slow_noise.deviation**2 + self.fast_noise.deviation**2))

    def _mean_of_bursts(self, step_s: float) -> float:
        """What bursts add on average, over the mean base rate."""
        per_step = self.bursts.per_day * step_s / DAY_S
        return per_step * self.bursts.height_mean / -math.expm1(-step_s / self.bursts.decay_s)

    def _burst_shape(self, streams: list[np.random.Generator], per_day: int, step_s: float) -> np.ndarray:
        impulses = np.zeros(len(streams) * per_day)
        for day, stream in enumerate(streams):
            count = stream.poisson(self.bursts.per_day)
            at = day * per_day + stream.integers(per_day, size=count)
            shape = self.bursts.height_shape
            np.add.at(impulses, at, stream.gamma(shape, self.bursts.height_mean / shape, size=count))
        from scipy.signal import lfilter  # takes a second to import

        return np.asarray(lfilter([1.0], [1.0, -math.exp(-step_s / self.bursts.decay_s)], impulses))


def _spike_shape(spikes: tuple[Spike, ...], time_of_day_s: np.ndarray) -> np.ndarray:
    shape = np.zeros_like(time_of_day_s)
    for spike in spikes:
        away = (time_of_day_s - spike.time_of_day_s + DAY_S / 2) % DAY_S - DAY_S / 2
        shape += spike.height * np.exp(-0.5 * (away / spike.width_s) ** 2)
    return shape


def _autoregressive(noise: Noise, streams: list[np.random.Generator], per_day: int, step_s: float) -> np.ndarray:
    keep = math.exp(-step_s / noise.correlation_s)
    shocks = np.concatenate([stream.standard_normal(per_day) for stream in streams])
    shocks *= noise.deviation * math.sqrt(1.0 - keep * keep)
    shocks[0] *= 1.0 / math.sqrt(1.0 - keep * keep)
    from scipy.signal import lfilter  # takes a second to import

    return np.asarray(lfilter([1.0], [1.0, -keep], shocks))


def bundled_traffics() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return names_in(TRAFFICS)


@cache
def bundled_traffic(name: str = DEFAULT) -> TrafficModel:
    """A bundled model by name.

    Raises:
        InputError: unknown name.
    """
    check_traffic(name)
    return read_traffic_model(TRAFFICS / f"{name}.yaml")


def read_traffic_model(path: Path) -> TrafficModel:
    """A model from a YAML file.

    Raises:
        InputError: unreadable, or not such a model; every problem at once.
    """
    return validate(TrafficModel, read_yaml(path, InputError), str(path), InputError, lambda model: iter(()))


def fit_traffic(trace: Trace, name: str, source: str = "fitted here") -> TrafficModel:
    """Parameters with which `generate` gives traffic like a trace's.

    Args:
        trace: of at least two days, taken to begin at midnight on a Monday.

    Raises:
        TraceError: too short, too coarse, or without traffic.
    """
    if trace.duration_s < 2 * DAY_S or trace.step_s > 3600.0 or trace.mean_per_s <= 0.0:
        raise TraceError(
            trace.name,
            f"must have traffic, last two days or more in steps of an hour or less (got {trace.duration_s:g} s)",
        )
    step_s = trace.step_s
    log_rate = np.log(np.maximum(trace.rates_per_s, _SMALL * trace.mean_per_s) / trace.mean_per_s)
    times = (np.arange(len(log_rate)) + 0.5) * step_s
    coefficients, rest = _fit_harmonics(times, log_rate, with_week=trace.duration_s >= 2 * WEEK_S)
    spikes, rest = _fit_spikes(times, rest, step_s, trace.duration_s)
    bursts, rest = _fit_bursts(log_rate, rest, step_s, trace.duration_s)
    slow, fast = _fit_noise(rest, step_s)
    trend = float(coefficients[1]) if trace.duration_s >= 2 * WEEK_S else 0.0
    grown = trend * trace.duration_s / DAY_S
    n_daily = 2 * DAILY_HARMONICS
    pairs = [tuple(_rounded(c) for c in coefficients[k : k + 2]) for k in range(2, len(coefficients), 2)]
    return TrafficModel(
        name=name,
        source=source,
        mean_per_s=_rounded(trace.mean_per_s * (grown / math.expm1(grown) if grown else 1.0)),
        trend_per_day=_rounded(trend),
        daily=tuple(pairs[: n_daily // 2]),  # type: ignore[arg-type]
        weekly=tuple(pairs[n_daily // 2 :]),  # type: ignore[arg-type]
        spikes=spikes,
        slow_noise=slow,
        fast_noise=fast,
        bursts=bursts,
    )


def _rounded(value: float) -> float:
    return float(f"{float(value):.4g}")


def _fit_harmonics(times: np.ndarray, log_rate: np.ndarray, with_week: bool) -> tuple[np.ndarray, np.ndarray]:
    """Level, trend and harmonics by robust regression (Huber weights), and what they leave."""
    columns = [np.ones_like(times), times / DAY_S]
    for period, harmonics in ((DAY_S, DAILY_HARMONICS), (WEEK_S, WEEKLY_HARMONICS)):
        for k in range(1, harmonics + 1):
            angle = 2.0 * np.pi * k * times / period
            used = 1.0 if period == DAY_S or with_week else 0.0
            columns += [used * np.cos(angle), used * np.sin(angle)]
    design = np.stack(columns, axis=1)
    if not with_week:
        design[:, 1] = 0.0
    weights = np.ones_like(log_rate)
    coefficients = np.zeros(design.shape[1])
    for _ in range(12):
        root = np.sqrt(weights)[:, None]
        coefficients = np.linalg.lstsq(design * root, log_rate * root[:, 0], rcond=None)[0]
        rest = log_rate - design @ coefficients
        limit = 1.345 * max(_deviation(rest), 1e-9)
        weights = np.minimum(1.0, limit / np.maximum(np.abs(rest), 1e-12))
    return coefficients, log_rate - design @ coefficients


def _deviation(values: np.ndarray) -> float:
    """Standard deviation by the median of absolute deviations, which few large values do not move."""
    from scipy.stats import median_abs_deviation  # takes a second to import

    return float(median_abs_deviation(values, scale="normal"))


def _fit_spikes(
    times: np.ndarray, rest: np.ndarray, step_s: float, duration_s: float
) -> tuple[tuple[Spike, ...], np.ndarray]:
    """Spikes at fixed times of day, greedily from the mean day, and what they leave."""
    per_day = round(DAY_S / step_s)
    n_days = len(rest) // per_day
    if n_days < 3 or per_day < 96:
        return (), rest
    days = rest[: n_days * per_day].reshape(n_days, per_day)
    typical = np.median(days, axis=0)
    # A difference of the mean day that chance explains is none: three standard errors of a median.
    error = 1.25 * _deviation((days - typical).ravel()) / math.sqrt(n_days)
    clock = (np.arange(per_day) + 0.5) * step_s
    spikes: list[Spike] = []
    left = typical.copy()
    for _ in range(MAX_SPIKES):
        at = int(np.argmax(np.abs(left)))
        height = float(np.clip(left[at], -_HIGHEST, _HIGHEST))
        if abs(height) < 3.0 * error:
            break
        away = (clock - clock[at] + DAY_S / 2) % DAY_S - DAY_S / 2
        widths = np.geomspace(0.75 * step_s, 7200.0, 24)
        shapes = np.exp(-0.5 * (away[None, :] / widths[:, None]) ** 2)
        loss = ((left[None, :] - height * shapes) ** 2).sum(axis=1)
        width = float(widths[int(np.argmin(loss))])
        spikes.append(Spike(time_of_day_s=_rounded(clock[at]), height=_rounded(height), width_s=_rounded(width)))
        left = left - _spike_shape((spikes[-1],), clock)
    return tuple(spikes), rest - _spike_shape(tuple(spikes), times % DAY_S)


def _fit_bursts(log_rate: np.ndarray, rest: np.ndarray, step_s: float, duration_s: float) -> tuple[Bursts, np.ndarray]:
    """Rises far above the noise: how often, how high, how long; and the rest without them."""
    from scipy.stats import kurtosis  # takes a second to import

    above = [rest - _running_median(rest, max(3, round(window_s / step_s))) for window_s in _BURST_WINDOWS_S]
    local = max(above, key=lambda values: float(kurtosis(values)))  # where they stand out most
    scale = max(_deviation(local), 1e-6)
    high = local > 5.0 * scale
    begins = np.flatnonzero(high & ~np.concatenate([[False], high[:-1]]))
    ends = np.flatnonzero(high & ~np.concatenate([high[1:], [False]]))
    if len(begins) == 0:
        return Bursts(per_day=0.0, height_mean=0.0, decay_s=300.0), rest
    base = np.exp(np.where(high, log_rate - local, log_rate))
    added = (np.exp(log_rate) - base) / base.mean()
    heights = np.array([added[a : b + 1].max() for a, b in zip(begins, ends, strict=True)])
    # A decay from height h that keeps the share k from a step to the next adds h / (1 - k) in all.
    keep = float(np.clip(1.0 - heights.sum() / added.sum(), 0.02, math.exp(-step_s / (4 * 3600.0))))
    bursts = Bursts(
        per_day=_rounded(len(begins) * DAY_S / duration_s),
        height_mean=_rounded(float(heights.mean())),
        height_shape=_rounded(float(np.clip((heights.mean() / max(heights.std(), 1e-6)) ** 2, 1.0, 100.0))),
        decay_s=_rounded(step_s / -math.log(keep)),
    )
    return bursts, np.where(high, rest - local, rest)


def _running_median(values: np.ndarray, window: int) -> np.ndarray:
    import pandas as pd

    return pd.Series(values).rolling(window, center=True, min_periods=1).median().to_numpy()


def _fit_noise(rest: np.ndarray, step_s: float) -> tuple[Noise, Noise]:
    """Two autoregressive processes whose autocorrelation at short and long lags is that of the rest."""
    rest = rest - rest.mean()
    spread = max(float(rest.std()), 1e-6)
    clipped = np.clip(rest, -4 * spread, 4 * spread)
    near, far = max(1, round(1800.0 / step_s)), max(2, round(7200.0 / step_s))
    cov_0, cov_1, cov_near, cov_far = (_covariance(clipped, lag) for lag in (0, 1, near, far))
    if cov_near <= 0.0 or cov_far <= 0.0 or cov_far >= cov_near:
        slow_variance, slow_s = max(0.0, min(cov_near, cov_0)), 4 * 3600.0
    else:
        slow_s = (far - near) * step_s / math.log(cov_near / cov_far)
        slow_variance = min(cov_0, cov_near * math.exp(near * step_s / slow_s))
    # What changes from a step to the next, and the slow noise does not explain, is fast: hold it whatever the long lags say.
    changes = cov_0 - cov_1 - slow_variance * -math.expm1(-step_s / slow_s)
    fast_variance = min(max(cov_0 - slow_variance, changes, 0.0), cov_0)
    slow_variance = min(slow_variance, cov_0 - fast_variance)
    fast_1 = cov_1 - slow_variance * math.exp(-step_s / slow_s)
    keep = fast_1 / fast_variance if fast_variance > 0.0 else 0.0
    fast_s = step_s / -math.log(min(max(keep, 0.02), 0.99))
    slow = Noise(deviation=_rounded(math.sqrt(slow_variance)), correlation_s=_rounded(min(slow_s, 2 * DAY_S)))
    return slow, Noise(deviation=_rounded(math.sqrt(fast_variance)), correlation_s=_rounded(fast_s))


def _covariance(values: np.ndarray, lag: int) -> float:
    return float(np.mean(values[: len(values) - lag] * values[lag:])) if lag < len(values) else 0.0


def main(arguments: list[str]) -> int:
    """`fit TRACE NAME [SOURCE [START END]]`: prints the YAML of a model fitted to a trace, or to a part of it."""
    if len(arguments) not in (3, 4, 6) or arguments[0] != "fit":
        print("usage: python -m sim_core.workload.generator fit TRACE NAME [SOURCE [START END]]", file=sys.stderr)
        return 2
    try:
        trace = read_trace(arguments[1])
        if len(arguments) == 6:
            trace = trace.slice(parse_duration(arguments[4]), parse_duration(arguments[5]))
        model = fit_traffic(trace, arguments[2], *arguments[3:4])
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=110), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
