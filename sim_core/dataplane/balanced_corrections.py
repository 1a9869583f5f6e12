"""What is fitted about balanced pods: `fit_balanced` plays stations, fits, and rewrites the arrays of this module.

Logarithms of mean wait and of the variance of the time in a pod, and the skewness of that time, are corrected by sums of
products of bounded features. So are the scale and the sharpness of the bend where overloaded pods go from what can be
answered in time to their room, and how much their calls vary there.
"""

from __future__ import annotations

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.services.records import POWER_OF_TWO

TERMS, REACH_TERMS = 36, 15
_USUAL_SMALL = 0.1118  # 1 / sqrt(80)


@kernel
def sum_of_terms(of, waiting, uneven, held, few, together, full, servers, nodes, load, buffer, lost):
    """The sum of products of features that corrections are, each times its coefficient; see `correction`."""
    part_0 = of[0] + of[1] * waiting + of[2] * uneven + of[3] * held + of[4] * few + of[5] * together
    part_1 = of[6] * full + of[7] * servers + of[8] * nodes + of[9] * load + of[10] * buffer + of[11] * lost
    part_2 = (
        of[12] * uneven * full * load
        + of[13] * waiting * full * servers
        + of[14] * few * few * full
        + of[15] * uneven * load * load
        + of[16] * few * few * load
        + of[17] * full * full
    )
    part_3 = (
        of[18] * waiting * waiting * load
        + of[19] * uneven * full * servers
        + of[20] * uneven * uneven
        + of[21] * few * load * load
        + of[22] * held * held * together
        + of[23] * uneven * held * few
    )
    part_4 = (
        of[24] * together * together * lost
        + of[25] * waiting * uneven * few
        + of[26] * uneven * uneven * together
        + of[27] * uneven * held * together
        + of[28] * waiting * held * servers
        + of[29] * waiting * waiting * full
    )
    part_5 = (
        of[30] * waiting * together * together
        + of[31] * uneven * together * lost
        + of[32] * uneven * few
        + of[33] * load * load * load
        + of[34] * uneven * held * held
        + of[35] * together * together * load
    )
    return part_0 + part_1 + part_2 + part_3 + part_4 + part_5


@kernel
def correction(group, waiting, uneven, held, few, together, full, servers, nodes, load, buffer, lost):
    """Additions to the logarithms of wait and variance, and to the skewness.

    Args:
        group: sharing of the CPU, and 3 more for two choices.
        waiting: mean number of waiting calls over one more [1].
        uneven: logarithm of (1 + scv) / 2.
        held: part of a call's time without waits that it spends held [1].
        few: 1 / sqrt(pods).
        together: part of the wait that all pods share [1].
        full: third power of the calls in a pod over those that it holds at most [1].
        servers: 1 - 1 / servers of a pod.
        nodes: 1 - 1 / balancer nodes.
        load: utilization, at most 1.1.
        buffer: how long a period of a CPU quota is, between 0 and 1; 0 without quota.
        lost: part of the room that calls given up by their callers keep from use [1].
    """
    on_wait = sum_of_terms(
        TABLE[group, 0], waiting, uneven, held, few, together, full, servers, nodes, load, buffer, lost
    )
    on_variance = sum_of_terms(
        TABLE[group, 1], waiting, uneven, held, few, together, full, servers, nodes, load, buffer, lost
    )
    on_skewness = sum_of_terms(
        TABLE[group, 2], waiting, uneven, held, few, together, full, servers, nodes, load, buffer, lost
    )
    return max(-1.5, min(1.5, on_wait)), max(-1.5, min(1.5, on_variance)), max(-5.0, min(5.0, on_skewness))


@kernel
def sum_of_reach(of, uneven, few, over, shared, small):
    """The sum of products of features that scale and power are, each times its coefficient; see `reach`."""
    total = of[0] + of[1] * uneven + of[2] * few + of[3] * over + of[4] * shared + of[5] * (small - _USUAL_SMALL)
    squares = of[6] * uneven * uneven + of[7] * few * few + of[8] * over * over
    products = of[9] * uneven * few + of[10] * uneven * over + of[11] * few * over
    return total + squares + products + shared * (of[12] * few + of[13] * over + of[14] * uneven)


@kernel
def loose_variance(balancing, free, cpu_scv):
    """Variance of the calls of overloaded pods that callers give up: of the mean pod, and so of all together [calls^2].

    A full pod whose calls were given up looks empty: it draws all calls, and refuses them, until one of those inside is done.
    Places become free, and are taken, in bursts that all pods feel.

    Args:
        free: places of a pod that are free, on the mean, beyond those that chance leaves free in full pods [calls].
        cpu_scv: of the CPU time of a call [1].
    """
    return LOOSE[1 if balancing == POWER_OF_TWO else 0] * 0.5 * (1.0 + cpu_scv) * free


@kernel
def reach(group, uneven, few, over, shared, small):
    """Logarithms of scale and power of the smooth minimum of the room and what is answered in time.

    Args:
        group: sharing of the CPU, and 3 more for two choices.
        uneven: logarithm of (1 + scv) / 2.
        few: 1 / sqrt(pods).
        over: utilization beyond 1, at most 0.6.
        shared: part of a pod's calls that share its CPU; 0 where they are served one by one.
        small: 1 / sqrt(room).
    """
    scale = sum_of_reach(REACH[group, 0], uneven, few, over, shared, small)
    power = sum_of_reach(REACH[group, 1], uneven, few, over, shared, small)
    return max(-1.0, min(1.0, scale)), max(0.0, min(3.0, power))


LOOSE = np.array(
[1.249, 0.233]
)  # fmt: skip
REACH = np.array(
[[[ 1.692e-02,  7.890e-03,  4.042e-01, -2.312e-01, -3.415e-15,  7.449e-01, -6.397e-02, -1.769e-01,
    3.722e-02, -1.199e-01, -5.732e-01,  4.056e-01, -7.881e-15, -1.614e-14,  4.801e-15],
  [ 1.089e+00, -1.706e+00,  8.108e-01,  2.172e+00, -1.692e-15, -7.117e+00,  6.209e-02,  1.164e-01,
   -1.780e+00,  2.008e+00,  2.308e+00, -1.218e+00,  0.000e+00,  0.000e+00,  0.000e+00]],

 [[-3.329e-02, -2.363e-01,  3.549e-03,  3.756e-03,  6.017e-01, -1.745e+00, -2.948e-01,  1.121e-02,
   -4.174e-01,  6.046e-01,  5.219e-01,  1.145e+00,  2.158e+00,  9.489e-01, -4.203e-01],
  [ 1.456e+00, -5.066e-01,  3.818e-01,  1.443e-01, -1.223e+00, -1.596e+00,  8.324e-01,  4.453e-02,
    9.970e-02, -9.818e-02, -9.138e-01, -8.066e-01, -5.110e-01, -4.953e-01,  1.482e+00]],

 [[-2.276e-01,  3.418e-02,  4.380e-01,  6.088e-01,  1.222e+00, -1.401e+00,  1.599e-01,  4.163e-02,
   -5.017e-01,  7.558e-01, -5.463e-02, -3.525e-01,  1.056e+00, -1.603e+00,  1.262e-02],
  [ 1.677e+00, -1.207e+00,  6.060e-02, -2.356e-01, -1.788e+00, -3.606e+00,  2.265e-01,  1.546e-01,
    6.567e-01, -3.744e-01,  2.278e-01,  5.971e-01, -2.511e-01,  9.715e-01,  1.314e+00]],

 [[-7.661e-02, -3.406e-01,  2.174e-01,  1.841e+00,  7.429e-19, -1.579e+00,  1.953e-01,  3.648e-01,
   -1.718e+00,  2.129e+00, -1.831e-01, -1.143e+00, -3.886e-18,  4.705e-19,  2.948e-18],
  [ 1.949e+00, -4.345e-01, -1.507e-01, -1.621e+00, -2.881e-18, -1.597e+00, -8.714e-02, -2.416e-01,
    2.004e+00, -2.396e+00,  1.239e+00,  8.286e-01,  0.000e+00,  0.000e+00,  0.000e+00]],

 [[ 3.313e-01, -2.334e-01,  2.750e-01,  5.617e-01,  5.605e-01, -2.276e+00, -5.175e-01,  8.170e-01,
   -3.162e-01,  1.542e+00, -2.209e+00, -4.185e-01,  8.305e-01,  2.724e+00,  1.979e+00],
  [ 1.393e+00, -6.681e-01, -1.073e+00, -2.070e-01, -1.823e+00, -1.385e+00,  7.587e-01,  9.235e-01,
   -1.691e-01, -9.880e-02,  1.561e+00,  1.174e-01,  1.221e+00,  2.119e+00,  1.985e-01]],

 [[ 1.935e-01, -3.548e-03, -3.190e-02,  3.244e-01, -9.324e-02, -3.028e-01,  1.107e-01,  4.055e-01,
    3.551e-01,  4.715e-01,  9.646e-01,  2.513e-01,  9.570e-01,  2.367e+00, -4.910e-01],
  [ 1.685e+00, -5.243e-01, -4.519e-01, -1.873e-01, -1.159e+00, -1.356e+00,  2.979e-01,  4.344e-01,
   -6.330e-01,  6.823e-02, -3.760e-01, -8.657e-01, -3.001e-01,  1.339e+00,  4.353e-01]]]
)  # fmt: skip

TABLE = np.array(
[[[ 2.912e-01, -6.465e-01,  2.695e-01,  3.301e-02,  6.324e-02, -7.440e-02, -5.266e-02, -5.167e-02,
   -1.913e-02, -3.727e-01,  0.000e+00,  1.439e-01,  3.481e-02, -5.541e-01, -1.011e+00, -2.845e-01,
    9.406e-02,  2.054e-01,  6.393e-01,  6.328e-02, -2.216e-01,  5.731e-01, -5.388e-01,  1.056e+00,
    1.873e-01, -1.615e+00,  2.847e-01,  5.192e-01,  1.178e-01,  3.027e-01, -6.601e-01, -9.568e-02,
    5.931e-01,  1.342e-01, -1.746e-01,  2.787e-01],
  [-1.456e-01, -1.061e-01, -1.673e-01, -4.908e-02,  2.531e-01,  3.780e-03, -1.642e-01, -4.026e-02,
    2.326e-02,  3.203e-01,  0.000e+00,  7.002e-01, -2.963e-01, -3.053e-01, -3.739e-01,  4.761e-01,
   -4.587e-01,  5.450e-01, -1.201e-01,  1.625e+00, -2.172e-01,  6.123e-01,  1.409e-02,  1.484e+00,
    2.767e+00, -1.743e+00,  2.919e-01, -5.293e-01,  4.413e-01, -1.079e-01,  2.147e-02, -1.867e+00,
    1.017e+00, -3.351e-01,  2.624e-01,  1.224e-02],
  [-5.392e-01,  4.102e-01, -1.307e+00, -1.447e-01,  1.426e-01,  3.533e-01,  3.852e-01, -5.032e-02,
    1.377e-01,  3.872e-01,  0.000e+00,  5.558e-02, -3.522e-01,  3.313e-01, -6.721e-02,  8.135e-01,
   -2.384e-02, -3.655e-01, -1.733e-01,  8.412e-01, -9.560e-01, -1.331e-01,  1.291e-01, -1.748e-01,
   -7.663e-02,  7.405e-01,  5.397e-01,  6.694e-01,  2.865e-01, -1.121e-01, -1.379e-01, -9.461e-01,
    1.575e-01,  9.623e-02, -4.155e-01, -3.472e-01]],

 [[ 1.598e-01, -3.715e-01, -1.052e-01, -1.065e-01, -1.876e-01, -4.414e-02, -5.933e-01,  8.183e-03,
   -1.929e-02,  1.196e-01,  0.000e+00, -3.882e-02,  3.471e-01, -2.051e-01, -4.845e-01, -2.169e-03,
    5.138e-01,  1.826e-01,  4.709e-01,  2.497e-01,  3.999e-02, -5.634e-02,  6.689e-02,  1.880e-01,
    1.372e+00, -1.854e-01, -1.310e-02, -4.079e-01, -1.104e-01,  7.157e-01, -5.992e-01,  1.606e+00,
    2.903e-01, -1.611e-01,  1.195e-01,  2.953e-01],
  [ 2.700e-01, -5.462e-01,  3.634e-03, -2.481e-01, -1.422e-01, -7.817e-02, -1.028e-02, -1.128e-01,
    4.861e-02, -1.026e-01,  0.000e+00,  5.654e-01,  5.462e-02, -2.627e+00, -1.514e+00, -4.025e-02,
    6.231e-01,  6.259e-01,  4.148e-01, -5.857e-01, -1.393e-01,  7.919e-01, -1.952e-01, -8.098e-01,
    1.526e+00,  7.746e-02,  3.824e-03, -2.276e-01,  2.008e-01, -5.397e-01, -2.035e-02,  2.976e+00,
    3.236e-01, -1.849e-01,  3.723e-01,  4.549e-02],
  [-6.119e-01,  1.235e+00, -2.954e-01, -3.905e-01,  5.970e-01,  4.172e-01, -7.076e-01, -3.460e-01,
   -1.574e-01,  8.597e-01,  0.000e+00, -5.622e-01, -4.749e-01, -3.193e-01, -1.961e+00,  9.012e-01,
    8.315e-01,  8.273e-01, -6.379e-01, -5.588e-01, -1.785e+00, -2.848e-01, -5.240e-01, -1.219e-01,
   -6.025e-01, -4.848e-01, -3.959e-02, -5.761e-01, -1.261e-01, -7.474e-01,  2.301e-01, -3.283e-02,
   -3.630e-01, -2.086e-01, -1.446e+00, -2.324e-01]],

 [[ 5.267e-01,  7.951e-01,  2.134e-01,  9.620e-01, -2.030e-01, -3.015e-01, -1.140e+00, -3.457e-01,
    1.275e-01, -1.326e+00, -5.747e-01, -2.373e-01,  5.119e-01,  1.552e-01, -1.466e+00, -1.802e-01,
   -3.826e-01,  6.768e-01, -1.472e+00, -6.190e-02, -2.045e-01,  1.948e+00, -4.222e-01,  4.761e-01,
   -2.448e-01, -3.765e-01,  3.767e-01,  2.392e-02, -2.760e-01,  7.441e-01,  1.422e-01, -5.374e-01,
   -4.829e-01,  2.769e-01,  1.578e-01,  6.487e-01],
  [ 8.655e-01,  2.499e+00,  6.029e-02,  1.993e-01, -9.682e-01, -3.448e-01, -1.161e+00, -1.790e-01,
    1.142e-01, -4.868e-01, -9.426e-01,  4.821e-01, -1.033e+00,  5.442e-01, -2.775e+00,  1.015e+00,
    1.748e+00,  1.580e+00, -1.565e+00, -2.014e-01, -3.535e-01,  1.664e+00, -5.854e-01,  2.225e+00,
    1.960e+00, -1.588e-01,  3.362e-01, -4.428e-01, -1.907e+00,  1.775e+00, -1.185e+00,  7.082e-01,
   -7.142e-01, -8.384e-01, -8.110e-01,  7.590e-01],
  [-2.516e-01,  2.397e+00,  6.191e-01,  2.100e-01,  5.732e-01,  5.744e-01, -2.081e-01, -2.917e-01,
    4.339e-01,  7.022e-01, -2.135e+00, -4.483e-01, -1.115e+00,  1.497e-01, -7.486e-01,  3.452e+00,
    1.278e-01, -9.733e-02, -8.569e-01, -5.873e-01,  1.318e-01, -1.732e-01, -7.465e-01,  4.472e-02,
   -5.926e-01, -6.870e-01,  1.503e+00, -1.465e+00, -5.128e-01,  5.243e-01, -5.072e-01,  4.749e-02,
    4.696e-01, -1.236e-01, -1.095e+00,  3.040e-01]],

 [[ 1.371e-01, -6.843e-01,  3.643e-01, -1.172e-01,  7.707e-02, -2.465e-01, -1.262e+00,  3.615e-02,
    0.000e+00,  3.552e-01,  0.000e+00,  1.023e-02, -1.042e+00,  4.989e-01, -1.527e+00, -2.178e-01,
    6.345e-01,  5.502e-01,  1.062e+00, -1.861e-02, -2.565e-01, -2.685e-01,  2.255e-01,  2.341e-01,
    5.550e-02, -7.745e-01,  2.431e-01, -1.267e-02, -5.442e-02,  1.339e+00, -6.589e-01,  1.060e-01,
    4.901e-01, -5.219e-01, -2.049e-01,  4.844e-01],
  [ 1.072e-01,  3.936e-01,  3.701e-01, -1.290e-01, -8.357e-02, -1.324e-01, -5.694e-01,  1.213e-02,
    0.000e+00,  6.995e-03,  0.000e+00,  5.496e-01, -3.392e-01, -3.218e-01,  1.369e-01,  3.437e-02,
    1.179e-01,  9.372e-01,  4.580e-01,  1.641e+00, -1.837e-01,  4.766e-02,  1.152e-01,  4.994e-01,
    3.654e+00, -1.112e+00,  1.741e-01, -1.174e-01,  4.535e-01, -2.298e-01, -7.164e-01, -1.135e+00,
    7.687e-01, -6.504e-01, -2.274e-01,  5.141e-01],
  [-1.997e-01,  3.226e-01, -7.035e-01,  1.239e-01,  5.454e-02,  5.431e-02,  3.596e-01,  1.146e-01,
    0.000e+00,  2.113e-01,  0.000e+00, -1.605e-01,  4.613e-01,  8.937e-02, -1.752e-01, -3.311e-01,
    2.627e-01, -1.962e-01, -3.086e-01,  1.583e-01, -8.550e-01, -2.364e-01, -2.230e-01,  1.173e-01,
   -1.815e-01,  4.950e-01,  6.771e-01,  7.061e-01, -1.644e-01, -1.717e-01,  2.635e-01, -2.945e-01,
    1.602e-01, -1.309e-01, -7.125e-02, -9.969e-02]],

 [[ 1.526e-01, -9.897e-01, -6.954e-03,  4.345e-02,  3.290e-02, -2.294e-01, -5.414e-01, -1.295e-02,
    0.000e+00,  2.949e-01,  0.000e+00, -2.976e-02,  8.765e-02, -2.181e-01,  9.735e-02,  7.480e-03,
    5.656e-01, -1.195e-02,  6.952e-01, -3.110e-02, -4.599e-03, -6.569e-02,  3.181e-03,  2.158e-01,
    4.050e-01, -1.389e-01, -3.505e-02,  3.428e-02, -2.747e-02,  4.509e-01, -7.196e-01, -1.952e-01,
   -5.245e-02, -7.688e-02, -2.917e-02,  6.750e-01],
  [ 2.192e-01, -4.047e-01,  6.305e-02,  2.710e-01, -3.592e-01,  1.187e-01,  3.413e-01, -1.567e-02,
    0.000e+00, -3.813e-01,  0.000e+00,  1.189e+00, -1.013e-01, -2.181e+00, -1.719e+00,  3.932e-01,
    1.284e+00,  6.461e-02, -1.157e-01,  1.457e+00, -1.940e-01,  6.044e-01, -1.011e+00,  8.604e-01,
    3.467e+00, -2.867e-01,  9.514e-02, -1.801e-01, -3.361e-01, -1.578e-01,  3.013e-01, -4.932e-01,
   -5.230e-01,  6.519e-02, -4.758e-01, -1.619e-01],
  [-4.819e-01,  9.538e-01,  1.317e-01, -4.020e-01,  6.969e-01,  4.098e-01, -3.441e-01, -4.919e-01,
    0.000e+00,  9.253e-01,  0.000e+00, -4.675e-01, -4.979e-01, -1.500e-01, -8.253e-01,  1.262e+00,
    3.216e-01,  3.576e-01, -9.220e-01,  2.555e-01, -8.296e-01, -2.798e-01, -6.370e-01, -3.394e-01,
   -5.165e-01, -1.894e-01, -3.564e-01, -1.593e+00, -7.993e-02,  1.149e-02, -1.469e-01, -1.137e-01,
   -2.478e-01, -1.604e-01, -9.886e-01, -2.510e-01]],

 [[ 1.082e+00, -2.345e-01,  2.247e-01,  7.167e-01, -2.713e-01, -1.257e-01, -5.248e-01, -4.720e-01,
    0.000e+00, -1.879e+00, -8.906e-01, -4.584e-02,  1.019e-01, -4.162e-01, -2.057e+00,  1.056e-01,
    1.016e+00,  1.470e+00, -7.420e-01, -5.747e-01, -1.598e-01,  1.070e+00, -5.967e-01,  1.592e+00,
    8.757e-02, -1.189e+00,  1.187e-01,  6.732e-01, -6.463e-01, -8.892e-01,  4.300e-01,  4.118e-02,
   -1.018e+00,  1.344e+00, -2.372e-01,  1.138e-01],
  [ 1.205e+00,  2.757e+00,  2.496e-01,  2.387e-01, -1.090e+00, -2.172e-02, -1.749e+00, -2.286e-01,
    0.000e+00, -7.894e-01, -1.426e+00,  6.826e-01, -1.031e+00,  7.293e-01, -3.279e+00,  1.255e+00,
    2.676e+00,  2.359e+00, -1.895e+00,  9.946e-01, -4.172e-01,  1.122e+00, -5.680e-01,  2.053e+00,
    1.226e+00, -1.174e+00,  6.897e-01, -6.095e-01, -2.245e+00,  1.426e+00, -3.210e-01,  2.142e+00,
   -7.801e-01, -6.434e-01, -9.429e-01,  8.901e-03],
  [ 8.433e-01,  1.915e+00,  3.286e+00, -4.268e-01,  5.415e-01,  1.250e-01, -3.591e-01, -7.746e-01,
    0.000e+00,  5.368e-01, -1.652e+00, -6.136e-01, -1.118e+00,  9.565e-01, -1.120e+00,  2.142e+00,
    5.699e-01,  9.691e-02, -1.369e+00, -1.736e-01,  1.224e+00, -4.586e-01, -4.026e-01, -7.477e-01,
   -5.418e-01, -1.423e+00,  1.196e+00, -1.439e+00, -2.501e-01,  1.114e+00,  4.758e-01,  2.289e-01,
   -5.751e-01, -3.887e-01, -1.681e+00, -2.911e-01]]]
)  # fmt: skip
