"""How long calls wait in a station, and the distribution that three cumulants stand for."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.services.records import ROUND_ROBIN

LARGE = 1e100  # a weight from which on weights are scaled down
_SQRT_HALF = math.sqrt(0.5)
_NORMAL_AT_0 = 1.0 / math.sqrt(2.0 * math.pi)
_LEAST_SKEWNESS = 0.01  # below it a shape is a normal one; shift and scale would cancel
_MOST_SKEWNESS = 60.0
_GAMMA_SKEWNESS, _LOGNORMAL_SKEWNESS = 2.2, 3.2
_CHOOSE_3, _CHOOSE_6, _CHOOSE_9 = (np.array([float(math.comb(m, n)) for n in range(m + 1)]) for m in (3, 6, 9))
_SAME_CUT = 1e-3  # relative change of a mean from which on what a timeout leaves of it is worked out anew
# Shapes are split above this coefficient of variation and this skewness over it; from there on gradually.
_SPLIT_CV, _SPLIT_CV_WIDTH, _SPLIT_SKEWNESS = 0.3, 0.2, -0.5
_GAMMA_CV, _GAMMA_CV_WIDTH, _GAMMA_WIDTH = 1.15, 0.15, 0.12  # ... and less where they are nearly gamma distributions
_MOST_CV, _MOST_SKEWNESS_BY_CV = 2.5, 9.0  # beyond which a split goes by these
_MOST_BETWEEN = 0.95  # of the variance, that is between the pieces
# Fitted, see fit.py. Rows: logit of the slow share, log of the distance over the standard deviation, log of the ratio of
# variances; columns: 1, x, y, x^2, x y, y^2 with x = log cv and y = log((skewness / cv + 1) / 3).
SPLIT = np.array([
    [0.206, -1.122, -0.281, -0.573, 0.887, 0.346],
    [0.083, 0.280, -0.760, 0.347, -0.742, 0.079],
    [2.521, 3.759, -2.692, 1.912, -3.008, 0.839],
])  # fmt: skip


@kernel
def truncated_exponential(rate):
    """Mean, variance and third cumulant on [0, 1] of a density proportional to exp(-rate x); of either sign."""
    if abs(rate) < 0.05:  # Bernoulli's numbers: the closed forms cancel
        rate2 = rate * rate
        return (
            0.5 - rate / 12.0 + rate * rate2 / 720.0,
            (1.0 - rate2 / 20.0) / 12.0,
            rate * (1.0 - rate2 / 12.6) / 120.0,
        )
    if rate > 500.0:
        return 1.0 / rate, 1.0 / (rate * rate), 2.0 / rate**3
    if rate < -500.0:
        return 1.0 + 1.0 / rate, 1.0 / (rate * rate), 2.0 / rate**3
    grown = math.expm1(rate)
    square = (grown + 1.0) / (grown * grown)
    inverse = 1.0 / rate
    return (
        inverse - 1.0 / grown,
        inverse * inverse - square,
        2.0 * inverse**3 - square * (grown + 2.0) / grown,
    )


@kernel
def truncated_geometric(log_ratio, places):
    """Mean, variance and third cumulant of k in 0 .. places - 1 with weights exp(k log_ratio), places at least 1.

    An exponential variable on [0, places), whose integer part this is, and whose fraction is independent of it.
    """
    mean, variance, third = truncated_exponential(-log_ratio * places)
    mean_f, variance_f, third_f = truncated_exponential(-log_ratio)
    return (
        max(0.0, places * mean - mean_f),
        max(0.0, places * places * variance - variance_f),
        places**3 * third - third_f,
    )


@kernel
def geometric_sum(log_ratio, places):
    """Sum of exp(k log_ratio) over k = 0 .. places - 1, for log_ratio at most 0."""
    if log_ratio > -1e-9:
        return places
    return math.expm1(places * log_ratio) / math.expm1(log_ratio)


@kernel
def entry_weight(utilization, factor):
    """Weight of the first state of a line over that for exponential times."""
    if utilization < 1.0:
        return 1.0 / (1.0 - utilization + utilization * factor)
    return 1.0 / factor


@kernel
def line_log_ratio(utilization, factor):
    """Log of the ratio of neighboring states of a line whose mean is `factor` times that for exponential times."""
    if utilization < 1.0:
        return math.log(max(1e-12, utilization * factor / (1.0 - utilization + utilization * factor)))
    return math.log((utilization - 1.0 + factor) / factor)


@kernel
def free_servers(busy, speed, servers):
    """Weights of the states of a queue with a free server: `idle` their sum, and `idle_busy` that of each times the work
    that it gets done; and `last`, that of all servers but one busy, by which the others follow.

    Args:
        busy: work that comes, in whole servers; speed: of a server.
    """
    last, idle, idle_busy = 1.0, 1.0, 0.0
    for j in range(1, int(servers)):
        last *= busy / (j * speed)
        idle += last
        idle_busy += last * j * speed
        if last > LARGE:  # many servers far beyond their capacity: only ratios count
            last, idle, idle_busy = 1.0, idle / last, idle_busy / last
    return last, idle, idle_busy


@kernel
def third_moment_factors(scv):
    """E S^3 / (E S)^3 and E S^4 / (E S)^4 of a service time: gamma up to scv 1, lognormal beyond."""
    if scv <= 1.0:
        return (1.0 + scv) * (1.0 + 2.0 * scv), (1.0 + scv) * (1.0 + 2.0 * scv) * (1.0 + 3.0 * scv)
    return (1.0 + scv) ** 3, (1.0 + scv) ** 6


@kernel
def third_cumulant_factor(scv):
    """E (S - ES)^3 / (E S)^3 of a service time: gamma up to scv 1, lognormal beyond."""
    if scv <= 1.0:
        return 2.0 * scv * scv
    return scv * scv * (scv + 3.0)


@kernel
def take_shape(shape, mean, variance, third):
    """Sets the SHAPE of these cumulants."""
    take_split_shape(shape, mean, variance, third, SPLIT)


@kernel
def take_split_shape(shape, mean, variance, third, split):
    """Sets the SHAPE of these cumulants, split by these coefficients.

    Times that are made up of waits are now short, now long: where they vary much, two distributions of the same
    skewness share in them, one with the mean `apart` below the other's. Their parts, distance, and variances go by the
    coefficient of variation and the skewness alone; they were fitted to simulated sojourn times, see fit.py.
    """
    if variance <= 1e-12 * mean * mean:
        shape.slow_share = 0.0
        take_piece(shape.fast, mean, 0.0, 0.0)
        return
    sd = math.sqrt(variance)
    cv = sd / mean if mean > 0.0 else _MOST_CV
    skewness = third / (variance * sd)
    part = _ramp((cv - _SPLIT_CV) / _SPLIT_CV_WIDTH) * _ramp((skewness / cv - _SPLIT_SKEWNESS) / -_SPLIT_SKEWNESS)
    y = 0.0
    if part > 0.0:
        y = math.log((min(_MOST_SKEWNESS_BY_CV, skewness / cv) + 1.0) / 3.0)  # 0 for gamma distributions, ...
        part *= 1.0 - _ramp((_GAMMA_CV - cv) / _GAMMA_CV_WIDTH) * (
            1.0 - _ramp(abs(y) / _GAMMA_WIDTH)
        )  # ... which one piece is
    if part <= 0.0:
        shape.slow_share = 0.0
        take_piece(shape.fast, mean, sd, skewness)
        return
    x = math.log(min(_MOST_CV, cv))
    log_odds, log_apart, log_ratio = _form(split[0], x, y), _form(split[1], x, y), _form(split[2], x, y)
    slow = 1.0 / (1.0 + math.exp(-min(4.0, max(-4.0, log_odds))))
    fast = 1.0 - slow
    apart = part * sd * math.exp(min(2.0, max(-4.0, log_apart)))
    apart = min(apart, sd * math.sqrt(_MOST_BETWEEN / (slow * fast)))
    ratio = math.exp(part * min(6.0, max(-2.0, log_ratio)))  # variance of the slow over that of the fast
    variance_fast = (variance - slow * fast * apart * apart) / (fast + slow * ratio)
    variance_slow = variance_fast * ratio
    between = slow * fast * apart * (3.0 * (variance_slow - variance_fast) + (fast - slow) * apart * apart)
    sd_fast, sd_slow = math.sqrt(variance_fast), math.sqrt(variance_slow)
    skewness = (third - between) / (fast * variance_fast * sd_fast + slow * variance_slow * sd_slow)
    skewness = min(_MOST_SKEWNESS, max(-2.0, skewness))
    shape.slow_share = slow
    take_piece(shape.fast, mean - slow * apart, sd_fast, skewness)
    take_piece(shape.slow, mean + fast * apart, sd_slow, skewness)


@kernel
def _ramp(x):
    """From 0 below 0 to 1 above 1, without a bend."""
    x = min(1.0, max(0.0, x))
    return x * x * (3.0 - 2.0 * x)


@kernel
def _form(of, x, y):
    """A quadratic form."""
    return of[0] + (of[1] + of[3] * x + of[4] * y) * x + (of[2] + of[5] * y) * y


@kernel
def take_piece(piece, mean, sd, skewness):
    """Sets a PIECE, mirrored where the skewness is negative.

    Up to skewness 2 a shifted gamma distribution (the exponential one and sums of exponentials among them), written as
    the cube of a normal variable; from skewness 3 on a shifted lognormal one; a mixture of both between. The lognormal's
    skewness is (w + 2) sqrt(w - 1) with w = exp(log_sd^2): a cubic equation with one real root.
    Source of the cube: Wilson and Hilferty, "The distribution of chi-square", PNAS 17 (1931).
    """
    piece.mean, piece.sd = mean, sd
    piece.lognormal = 0.0
    piece.sign = 1.0 if skewness >= 0.0 else -1.0
    skewness = min(_MOST_SKEWNESS, max(_LEAST_SKEWNESS, abs(skewness)))
    if skewness < _LOGNORMAL_SKEWNESS:
        scale = 0.5 * sd * skewness
        inverse = 0.25 * skewness * skewness  # 1 / form parameter
        piece.cube_shift = mean - piece.sign * scale / inverse
        piece.cube_scale = scale / inverse
        piece.cube_sd = 0.5 * skewness / 3.0
        piece.cube_mean = 1.0 - inverse / 9.0
    if skewness > _GAMMA_SKEWNESS:
        piece.lognormal = min(1.0, (skewness - _GAMMA_SKEWNESS) / (_LOGNORMAL_SKEWNESS - _GAMMA_SKEWNESS))
        half = 0.5 * skewness * skewness
        root = np.cbrt(1.0 + half + skewness * math.sqrt(1.0 + 0.5 * half))
        grown = root - 2.0 + 1.0 / root  # w - 1
        log_variance = math.log(1.0 + grown)
        piece.log_mean = 0.5 * math.log(sd * sd / (grown * (1.0 + grown))) if sd > 0.0 else -math.inf
        piece.log_sd = math.sqrt(log_variance)
        piece.log_shift = mean - piece.sign * sd / math.sqrt(grown)


@kernel
def quantile_of_shape(shape, normal_quantile):
    """The quantile that a standard normal variable has at `normal_quantile`; not below 0 [s].

    That of two pieces lies between theirs: by the rule of false position, halved where it gets stuck (Illinois).
    """
    low = quantile_of_piece(shape.fast, normal_quantile)
    if shape.slow_share <= 0.0:
        return max(0.0, low)
    high = quantile_of_piece(shape.slow, normal_quantile)
    if low > high:
        low, high = high, low
    low, high = max(0.0, low), max(0.0, high)
    aim = 0.5 * math.erfc(-normal_quantile * _SQRT_HALF)
    off_low, off_high = share_within(shape, low) - aim, share_within(shape, high) - aim
    if off_low >= 0.0:
        return low
    if off_high <= 0.0:
        return high
    side = 0
    at = high
    for _ in range(30):
        if high - low <= 1e-4 * high or off_high - off_low < 1e-12:
            break
        at = low - off_low * (high - low) / (off_high - off_low)
        off = share_within(shape, at) - aim
        if abs(off) <= 1e-3 * min(aim, 1.0 - aim):
            break
        if off > 0.0:
            high, off_high = at, off
            if side > 0:
                off_low *= 0.5
            side = 1
        else:
            low, off_low = at, off
            if side < 0:
                off_high *= 0.5
            side = -1
    return at


@kernel
def quantile_of_piece(piece, normal_quantile):
    """The same of a PIECE; it may lie below 0."""
    if piece.sd == 0.0:
        return piece.mean
    place = piece.sign * normal_quantile
    value = 0.0
    if piece.lognormal < 1.0:
        root = max(0.0, piece.cube_mean + piece.cube_sd * place)
        value = (1.0 - piece.lognormal) * (piece.cube_shift + piece.sign * piece.cube_scale * root * root * root)
    if piece.lognormal > 0.0:
        value += piece.lognormal * (piece.log_shift + piece.sign * math.exp(piece.log_mean + piece.log_sd * place))
    return value


@kernel
def _cube_place(piece, threshold):
    """The normal variable's value at which the gamma distribution reaches the threshold."""
    above = piece.sign * (threshold - piece.cube_shift)
    if above <= 0.0:
        return -piece.cube_mean / piece.cube_sd
    return (np.cbrt(above / piece.cube_scale) - piece.cube_mean) / piece.cube_sd


@kernel
def share_within(shape, threshold):
    """P(X <= threshold)."""
    within = share_of_piece(shape.fast, threshold)
    if shape.slow_share > 0.0:
        within += shape.slow_share * (share_of_piece(shape.slow, threshold) - within)
    return within


@kernel
def share_of_piece(piece, threshold):
    """P(X <= threshold) of a PIECE."""
    if piece.sd == 0.0:
        return 1.0 if piece.mean <= threshold else 0.0
    within = 0.0
    if piece.lognormal < 1.0:
        above = piece.sign * (threshold - piece.cube_shift)
        share = 0.5 - 0.5 * piece.sign
        if above > 0.0:
            share = 0.5 * math.erfc(-piece.sign * _cube_place(piece, threshold) * _SQRT_HALF)
        within = (1.0 - piece.lognormal) * share
    if piece.lognormal > 0.0:
        above = piece.sign * (threshold - piece.log_shift)
        share = 0.5 - 0.5 * piece.sign
        if above > 0.0:
            share = 0.5 * math.erfc(-piece.sign * (math.log(above) - piece.log_mean) / piece.log_sd * _SQRT_HALF)
        within += piece.lognormal * share
    return within


@kernel
def cumulants_within(shape, threshold, within):
    """Mean, variance and third cumulant of X where X <= threshold, which has the probability `within`."""
    if shape.slow_share <= 0.0:
        return _piece_within(shape.fast, threshold, within)
    share_slow = share_of_piece(shape.slow, threshold)
    share_fast = share_of_piece(shape.fast, threshold)
    slow = shape.slow_share * share_slow / max(1e-12, within)
    mean, variance, third = _piece_within(shape.fast, threshold, share_fast)
    mean_slow, variance_slow, third_slow = _piece_within(shape.slow, threshold, share_slow)
    return mixture(min(1.0, slow), mean, variance, third, mean_slow, variance_slow, third_slow)


@kernel
def mixture(part, mean, variance, third, mean_of_part, variance_of_part, third_of_part):
    """Cumulants of what with probability `part` is one thing, else another."""
    apart = mean_of_part - mean
    between = part * (1.0 - part) * apart
    third += part * (third_of_part - third)
    third += between * (3.0 * (variance_of_part - variance) + (1.0 - 2.0 * part) * apart * apart)
    variance += part * (variance_of_part - variance) + between * apart
    return mean + part * apart, variance, third


@kernel
def without(apart, mean, variance, third):
    """Cumulants of the calls that are not told APART, from those of all."""
    share, rest = apart.share, 1.0 - apart.share
    if share <= 0.0 or rest <= 1e-6:
        return mean, variance, third
    away = (apart.mean_s - mean) / rest  # of those told apart from the others
    between = share * rest * away
    variance_of_rest = max(0.0, (variance - share * apart.variance_s2 - between * away) / rest)
    skewed = 3.0 * (apart.variance_s2 - variance_of_rest) + (rest - share) * away * away
    return mean - share * away, variance_of_rest, (third - share * apart.third_s3 - between * skewed) / rest


@kernel
def take_apart(piece, apart):
    """Sets the PIECE of the calls that are told APART."""
    variance = max(0.0, apart.variance_s2)
    sd = math.sqrt(variance)
    take_piece(piece, apart.mean_s, sd, apart.third_s3 / (variance * sd) if sd > 1e-6 * apart.mean_s else 0.0)


@kernel
def _piece_within(piece, threshold, within):
    """The same for one piece: of the component that has the larger part in the mixture."""
    sign = piece.sign
    if piece.sd == 0.0 or within < 1e-6:
        return min(piece.mean, threshold), 0.0, 0.0
    if piece.lognormal < 0.5:
        # Powers of a cube of a normal variable: its moments on the side of `place` that is within.
        place = _cube_place(piece, threshold)
        mass = 0.5 * math.erfc(-sign * place * _SQRT_HALF)
        if mass < 1e-6:
            return min(piece.mean, threshold), 0.0, 0.0
        edge = -sign * math.exp(-0.5 * place * place) * _NORMAL_AT_0 / mass
        # moment = E Z^n; C(m, n) ratio^n of it for the cube (m = 3), its square and its own cube, over cube_mean^m
        ratio = piece.cube_sd / piece.cube_mean
        before, moment, power = 0.0, 1.0, 1.0
        first = second = third = 0.0
        for n in range(10):
            if n <= 3:
                first += _CHOOSE_3[n] * power * moment
            if n <= 6:
                second += _CHOOSE_6[n] * power * moment
            third += _CHOOSE_9[n] * power * moment
            before, moment = moment, n * before + edge
            edge *= place
            power *= ratio
        cube = piece.cube_mean**3
        first, second, third = cube * first, cube * cube * second, cube * cube * cube * third
        scale, shift = piece.cube_scale, piece.cube_shift
    else:
        above = sign * (threshold - piece.log_shift)
        if above <= 0.0:
            return min(piece.mean, threshold), 0.0, 0.0
        sd = piece.log_sd
        place = (math.log(above) - piece.log_mean) / sd
        mass = max(1e-9, 0.5 * math.erfc(-sign * place * _SQRT_HALF))
        half = 0.5 * sd * sd
        first = 0.5 * math.erfc(-sign * (place - sd) * _SQRT_HALF) * math.exp(half) / mass
        second = 0.5 * math.erfc(-sign * (place - 2.0 * sd) * _SQRT_HALF) * math.exp(4.0 * half) / mass
        third = 0.5 * math.erfc(-sign * (place - 3.0 * sd) * _SQRT_HALF) * math.exp(9.0 * half) / mass
        scale, shift = math.exp(piece.log_mean), piece.log_shift
    mean = min(threshold, max(0.0, shift + sign * scale * first))
    # A time between 0 and the threshold varies by no more than one that is either: a cut far out in a tail cancels.
    variance = min(max(0.0, second - first * first) * scale * scale, mean * (threshold - mean))
    central = sign * (third - 3.0 * first * second + 2.0 * first**3) * scale**3
    return mean, variance, min(threshold * variance, max(-threshold * variance, central))


@kernel
def cut_at(cut, shape, piece, apart, mean, variance, third, timeout_s):
    """Sets CUT: what part of calls is answered within a timeout, and how long these take; kept until a cumulant moves.

    Args:
        cut: as it was set last, or zeros.
        shape, piece: SHAPE and PIECE, scratch.
        apart: APART, calls that have a distribution of their own.
        mean, variance, third: of all calls.
    """
    if (
        abs(mean - cut.mean_s) <= _SAME_CUT * mean
        and abs(variance - cut.variance_s2) <= 4.0 * _SAME_CUT * variance
        and abs(third - cut.third_s3) <= 8.0 * _SAME_CUT * abs(third)
        and abs(apart.share - cut.apart_share) <= _SAME_CUT * apart.share
        and timeout_s == cut.timeout_s
    ):
        return
    cut.mean_s, cut.variance_s2, cut.third_s3, cut.timeout_s = mean, variance, third, timeout_s
    cut.apart_share = cut.apart.share = apart.share
    if apart.share > 0.0:
        _cut_both(cut, shape, piece, apart)
        return
    take_shape(shape, mean, variance, third)
    cut.within = share_within(shape, timeout_s)
    cut.kept_s, cut.kept_variance_s2, cut.kept_third_s3 = mean, variance, third
    if cut.within < 1.0 - 1e-12:
        kept, cut.kept_variance_s2, cut.kept_third_s3 = cumulants_within(shape, timeout_s, cut.within)
        cut.kept_s = max(0.0, kept)  # shapes may reach a little below zero, where few are in time


@kernel
def _cut_both(cut, shape, piece, apart):
    """Sets CUT where some calls are told APART."""
    timeout_s, kept = cut.timeout_s, cut.apart
    mean, variance, third = without(apart, cut.mean_s, cut.variance_s2, cut.third_s3)
    take_shape(shape, mean, variance, third)
    within = share_within(shape, timeout_s)
    if within < 1.0 - 1e-12:
        mean, variance, third = cumulants_within(shape, timeout_s, within)
        mean = max(0.0, mean)
    take_apart(piece, apart)
    within_apart = share_of_piece(piece, timeout_s)
    kept.mean_s, kept.variance_s2, kept.third_s3 = apart.mean_s, apart.variance_s2, apart.third_s3
    if within_apart < 1.0 - 1e-12:
        kept_s, kept.variance_s2, kept.third_s3 = _piece_within(piece, timeout_s, within_apart)
        kept.mean_s = max(0.0, kept_s)
    cut.within = (1.0 - apart.share) * within + apart.share * within_apart
    kept.share = min(1.0, apart.share * within_apart / max(1e-12, cut.within))
    cut.kept_s, cut.kept_variance_s2, cut.kept_third_s3 = mixture(
        kept.share, mean, variance, third, kept.mean_s, kept.variance_s2, kept.third_s3
    )


@kernel
def mixed_cumulants(share, mean, variance, third):
    """Variance and third cumulant of what is 0, but with probability `share` has these cumulants; the mean is share * mean."""
    total = share * mean
    second = share * (variance + mean * mean)
    cube = share * (third + 3.0 * mean * variance + mean**3)
    return max(0.0, second - total * total), cube - 3.0 * total * second + 2.0 * total**3


@kernel
def scv_factor(scv, servers, utilization):
    """Mean wait of M/G/c over that of M/M/c [1].

    (1 + scv) / 2, exact for one server. Below scv 1 it lies between that of M/M/c and that of M/D/c, by Cosmetatos'
    correction; source: Kimura, "Approximations for multi-server queues: system interpolations", Queueing Systems 17 (1994).
    """
    factor = 0.5 * (1.0 + scv)
    if servers > 1.0 and scv < 1.0 and utilization > 0.0:
        idle = max(0.0, 1.0 - utilization)
        correction = idle * (servers - 1.0) * (math.sqrt(4.0 + 5.0 * servers) - 2.0) / (16.0 * servers * utilization)
        factor += 0.5 * (1.0 - scv) * min(1.0, correction)
    return factor


@kernel
def gap_factor(load, scv, utilization):
    """Mean wait of a pod with one server over that with Poisson arrivals and exponential times [1].

    Round robin deals every pods-th call of a Poisson stream to a pod: gaps of scv 1 / pods; source: Kraemer and
    Langenbach-Belz, "Approximate formulae for the delay in the queueing system GI/G/1" (1976). Several balancers that go
    round on their own lie between that and Poisson arrivals, the nearer to these the lower the utilization (fitted).
    """
    poisson = 0.5 * (1.0 + scv)
    if load.balancing != ROUND_ROBIN or load.ready <= 1.0:
        return poisson
    gaps = 1.0 / load.ready
    even = 0.5 * (gaps + scv)
    if 0.0 < utilization < 1.0:
        even *= math.exp(-2.0 * (1.0 - utilization) * (1.0 - gaps) ** 2 / (3.0 * utilization * (gaps + scv)))
    apart = (1.0 - 1.0 / load.nodes) * (0.02 + 0.66 * max(0.0, 1.0 - utilization))
    return even + apart * (poisson - even)
