"""Random times. Every thread draws from a stream of its own, so what one request needs does not depend on the others.

Distributions by squared coefficient of variation (scv): 0 constant; below 1 gamma (Erlang where 1 / scv is whole); 1
exponential; above 1 lognormal. All have the mean and the scv that they are asked for.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64); Marsaglia, Tsang,
"A simple method for generating gamma variables", ACM TOMS 26 (2000), and "The ziggurat method for generating random
variables", J. Statistical Software 5 (2000).
"""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.records import CONSTANT, ERLANG, EXPONENTIAL, GAMMA, LOGNORMAL
from sim_core.randomness import normal_quantile

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53
_LAYERS = 256
_LAYER = np.uint64(_LAYERS - 1)
_LAST_EDGE = 7.69711747013104972  # of the layers of equal area under exp(-x); the lowest holds the tail beyond it
_AREA = 3.9496598225815571993e-3
_LONGEST_ERLANG = 16  # a sum of more exponentials is slower than the gamma generator


def _ziggurat() -> tuple[np.ndarray, np.ndarray]:
    """Right edges of the layers, shape (_LAYERS + 1,), and exp(-edge)."""
    edges = np.zeros(_LAYERS + 1)
    edges[0] = _AREA * math.exp(_LAST_EDGE)
    edges[1] = _LAST_EDGE
    for layer in range(1, _LAYERS - 1):
        edges[layer + 1] = -math.log(_AREA / edges[layer] + math.exp(-edges[layer]))
    return edges, np.exp(-edges)


_EDGES, _DENSITIES = _ziggurat()


@kernel
def next_bits(stream):
    """The next 64 bits of a stream: of any record with a field `random`, its state."""
    stream.random += _WEYL
    z = stream.random
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@kernel
def mixed(key, number):
    """The start of a stream of its own for each (key, number)."""
    z = key + np.uint64(number) * _WEYL
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@kernel
def unit(bits):
    """64 random bits as a number from (0, 1]: never 0, so that its logarithm is finite."""
    return (np.float64(bits >> _S11) + 0.5) * _UNIT


@kernel
def next_uniform(stream):
    """One draw from (0, 1]."""
    return unit(next_bits(stream))


@kernel
def next_below(stream, n):
    """A whole number from 0 to n - 1, each as likely (off by less than n / 2**32)."""
    return np.int64(((next_bits(stream) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@kernel
def next_exponential(stream):
    """One draw of mean 1: where it falls well inside a layer of the ziggurat, one multiplication does."""
    start = 0.0
    while True:
        bits = next_bits(stream)
        layer = np.int64(bits & _LAYER)
        x = unit(bits) * _EDGES[layer]
        if x < _EDGES[layer + 1]:
            return start + x
        if layer == 0:  # beyond the last edge the distribution is itself again
            start += _LAST_EDGE
        elif _DENSITIES[layer] + next_uniform(stream) * (_DENSITIES[layer + 1] - _DENSITIES[layer]) < math.exp(-x):
            return start + x


@kernel
def exp_of_minus(x):
    """exp(-x) for x >= 0, to 1e-13; most are small."""
    if x > 0.02:
        return math.exp(-x)
    return 1.0 - x * (1.0 - x * (0.5 - x * (1.0 / 6.0 - x * (1.0 / 24.0 - x * (1.0 / 120.0)))))


@kernel
def set_distribution(distribution, scv):
    """Fixes what draws of mean 1 and this scv need."""
    if scv <= 0.0:
        distribution.kind = CONSTANT
    elif scv == 1.0:
        distribution.kind = EXPONENTIAL
    elif scv > 1.0:
        distribution.kind = LOGNORMAL
        distribution.a = -0.5 * math.log1p(scv)
        distribution.b = math.sqrt(math.log1p(scv))
    else:
        shape = 1.0 / scv
        whole = math.floor(shape + 0.5)
        if abs(shape - whole) < 1e-9 and whole <= _LONGEST_ERLANG:
            distribution.kind = ERLANG
            distribution.a = whole
        else:
            distribution.kind = GAMMA
            distribution.a = shape - 1.0 / 3.0
            distribution.b = 1.0 / math.sqrt(9.0 * distribution.a)


@kernel
def _next_normal(stream):
    return normal_quantile(min(next_uniform(stream), 1.0 - _UNIT))


@kernel
def _next_other(stream, distribution):
    kind = distribution.kind
    if kind == ERLANG:
        total = 0.0
        for _ in range(int(distribution.a)):
            total += next_exponential(stream)
        return total / distribution.a
    if kind == LOGNORMAL:
        return math.exp(distribution.a + distribution.b * _next_normal(stream))
    if kind == GAMMA:
        while True:
            z = _next_normal(stream)
            v = 1.0 + distribution.b * z
            if v <= 0.0:
                continue
            v = v * v * v
            if math.log(next_uniform(stream)) < 0.5 * z * z + distribution.a * (1.0 - v + math.log(v)):
                return distribution.a * v / (distribution.a + 1.0 / 3.0)
    return 1.0


@kernel
def next_time(stream, distribution, mean_s):
    """One draw of this mean [s]."""
    if distribution.kind == EXPONENTIAL:
        return mean_s * next_exponential(stream)
    return mean_s * _next_other(stream, distribution)
