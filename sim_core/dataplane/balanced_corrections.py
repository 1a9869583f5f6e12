"""What is fitted about balanced pods: `fit_balanced` plays stations, fits, and rewrites the arrays of this module.

Logarithms of mean wait and of the variance of the time in a pod, and the skewness of that time, are corrected by sums of
products of bounded features. So are the scale and the sharpness of the bend where overloaded pods go from what can be
answered in time to their room.
"""

from __future__ import annotations

import numpy as np

from sim_core.compiled import kernel

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
def reach(group, uneven, few, over, shared, small):
    """Logarithms of scale and power of the smooth minimum of the room and what is answered in time.

    Args:
        group: 0, 1 where CPUs are shared, and 2 more for two choices.
        uneven: logarithm of (1 + scv) / 2.
        few: 1 / sqrt(pods).
        over: utilization beyond 1, at most 0.6.
        shared: part of a pod's calls that share its CPU; 0 where they are served one by one.
        small: 1 / sqrt(room).
    """
    scale = sum_of_reach(REACH[group, 0], uneven, few, over, shared, small)
    power = sum_of_reach(REACH[group, 1], uneven, few, over, shared, small)
    return max(-1.0, min(1.0, scale)), max(0.0, min(3.0, power))


REACH = np.array(
[[[ 1.692e-02,  7.890e-03,  4.042e-01, -2.312e-01, -3.415e-15,  7.449e-01, -6.397e-02, -1.769e-01,
    3.722e-02, -1.199e-01, -5.732e-01,  4.056e-01, -7.881e-15, -1.614e-14,  4.801e-15],
  [ 1.089e+00, -1.706e+00,  8.108e-01,  2.172e+00, -1.692e-15, -7.117e+00,  6.209e-02,  1.164e-01,
   -1.780e+00,  2.008e+00,  2.308e+00, -1.218e+00,  0.000e+00,  0.000e+00,  0.000e+00]],

 [[-5.759e-02, -1.542e-01, -4.025e-01,  2.539e-01,  1.329e+00, -2.583e+00, -1.042e-01,  3.317e-01,
   -6.391e-01,  6.603e-02, -1.473e-01,  1.532e+00,  1.795e+00, -1.407e+00,  1.192e+00],
  [ 1.249e+00, -1.009e+00,  1.680e+00,  4.538e-01, -1.569e+00, -1.601e+00,  4.365e-01, -5.744e-01,
    5.700e-01,  8.596e-01,  3.112e-01, -2.618e+00, -1.302e+00,  9.588e-01,  2.908e-01]],

 [[-7.661e-02, -3.406e-01,  2.174e-01,  1.841e+00,  7.429e-19, -1.579e+00,  1.953e-01,  3.648e-01,
   -1.718e+00,  2.129e+00, -1.831e-01, -1.143e+00, -3.886e-18,  4.705e-19,  2.948e-18],
  [ 1.949e+00, -4.345e-01, -1.507e-01, -1.621e+00, -2.881e-18, -1.597e+00, -8.714e-02, -2.416e-01,
    2.004e+00, -2.396e+00,  1.239e+00,  8.286e-01,  0.000e+00,  0.000e+00,  0.000e+00]],

 [[ 2.061e-01,  1.607e-02,  7.067e-01,  2.051e-01,  5.584e-01, -2.666e+00, -1.701e-01, -2.868e-01,
    1.193e+00,  1.129e+00, -2.406e+00, -1.259e+00,  1.755e+00,  2.719e+00,  1.901e+00],
  [ 1.353e+00, -9.361e-01, -1.016e+00,  6.750e-01, -1.154e+00, -1.230e+00,  5.726e-01,  9.512e-01,
   -1.460e+00, -6.709e-02,  2.443e+00,  3.467e-01, -5.118e-02, -6.902e-01, -2.878e-01]]]
)  # fmt: skip

TABLE = np.array(
[[[ 2.912e-01, -6.465e-01,  2.695e-01,  3.301e-02,  6.324e-02, -7.440e-02, -5.266e-02, -5.167e-02,
   -1.913e-02, -3.727e-01,  0.000e+00,  1.439e-01,  3.481e-02, -5.541e-01, -1.011e+00, -2.845e-01,
    9.406e-02,  2.054e-01,  6.393e-01,  6.328e-02, -2.216e-01,  5.731e-01, -5.388e-01,  1.056e+00,
    1.873e-01, -1.615e+00,  2.847e-01,  5.192e-01,  1.178e-01,  3.027e-01, -6.601e-01, -9.568e-02,
    5.931e-01,  1.342e-01, -1.746e-01,  2.787e-01],
  [-1.214e-01, -4.557e-02, -2.093e-01, -1.058e-01,  2.679e-01, -3.767e-02, -1.292e-01, -3.131e-02,
    1.675e-02,  3.027e-01,  0.000e+00,  6.659e-01, -3.088e-01, -3.075e-01, -3.529e-01,  4.941e-01,
   -4.767e-01,  5.675e-01, -8.987e-02,  1.621e+00, -2.451e-01,  5.962e-01,  7.315e-02,  1.311e+00,
    2.802e+00, -1.679e+00,  3.292e-01, -5.412e-01,  4.263e-01, -1.942e-01, -1.709e-02, -1.831e+00,
    1.118e+00, -3.620e-01,  2.993e-01,  6.536e-02],
  [-5.648e-01,  5.276e-01, -1.326e+00, -1.605e-01,  1.855e-01,  3.893e-01,  3.612e-01, -7.854e-02,
    1.022e-01,  4.627e-01,  0.000e+00,  2.181e-02, -3.978e-01,  3.408e-01, -4.205e-02,  8.406e-01,
   -3.057e-02, -3.055e-01, -2.858e-01,  8.357e-01, -1.037e+00, -1.657e-01,  1.549e-01, -1.569e-01,
   -8.086e-02,  7.405e-01,  6.451e-01,  6.427e-01,  2.839e-01, -2.890e-02, -1.685e-01, -9.326e-01,
    2.619e-01,  1.807e-02, -3.598e-01, -4.125e-01]],

 [[ 1.676e-01, -3.662e-01, -1.058e-01, -1.074e-01, -1.915e-01, -4.474e-02, -5.872e-01,  6.856e-03,
   -1.915e-02,  1.034e-01,  0.000e+00, -3.729e-02,  3.399e-01, -2.019e-01, -5.236e-01, -2.813e-03,
    5.158e-01,  2.414e-01,  4.659e-01,  2.570e-01,  4.029e-02, -4.796e-02,  6.438e-02,  1.807e-01,
    1.445e+00, -1.851e-01, -1.408e-02, -4.090e-01, -1.068e-01,  6.782e-01, -6.031e-01,  1.782e+00,
    2.951e-01, -1.538e-01,  1.219e-01,  2.964e-01],
  [ 2.321e-01, -5.660e-01,  1.602e-01, -9.058e-02, -2.243e-01,  4.605e-02, -1.448e-02, -8.846e-02,
    1.968e-03, -1.699e-01,  0.000e+00,  3.966e-01,  2.399e-01, -2.488e+00, -1.490e+00, -1.212e-01,
    6.699e-01,  5.404e-01,  3.595e-01, -2.179e-01, -1.989e-01,  7.856e-01, -6.153e-01, -4.169e-01,
    1.587e+00,  1.831e-01,  1.336e-01, -7.772e-01,  1.387e-01, -5.800e-01,  2.603e-01,  2.782e+00,
    2.038e-01, -1.030e-01, -3.073e-02, -9.958e-02],
  [-5.793e-01,  1.398e+00, -3.430e-01, -4.760e-01,  6.395e-01,  4.179e-01, -8.412e-01, -3.619e-01,
   -2.192e-01,  8.334e-01,  0.000e+00, -7.524e-01, -7.935e-01, -2.298e-01, -2.130e+00,  8.726e-01,
    8.871e-01,  8.876e-01, -6.316e-01, -4.101e-01, -2.026e+00, -2.308e-01, -5.991e-01, -1.908e-01,
   -6.843e-01, -2.881e-01, -4.234e-01, -8.006e-01, -9.333e-02, -9.224e-01,  3.040e-01, -3.160e-01,
   -1.362e-01, -2.397e-01, -1.355e+00, -1.736e-01]],

 [[ 5.307e-01,  8.100e-01,  2.163e-01,  9.577e-01, -2.243e-01, -3.007e-01, -1.167e+00, -3.449e-01,
    1.254e-01, -1.328e+00, -5.675e-01, -2.475e-01,  3.668e-01,  1.625e-01, -1.344e+00, -1.886e-01,
   -3.576e-01,  7.091e-01, -1.489e+00, -5.252e-02, -2.020e-01,  1.940e+00, -4.041e-01,  5.091e-01,
   -1.617e-01, -3.791e-01,  3.644e-01, -9.353e-03, -2.740e-01,  7.218e-01,  1.436e-01, -4.478e-01,
   -4.714e-01,  2.726e-01,  1.582e-01,  6.532e-01],
  [ 9.240e-01,  2.475e+00,  1.309e-02,  1.669e-01, -1.019e+00, -3.686e-01, -1.223e+00, -1.822e-01,
    1.259e-01, -6.021e-01, -9.541e-01,  2.922e-01, -1.023e+00,  6.101e-01, -2.958e+00,  1.070e+00,
    1.711e+00,  1.712e+00, -1.528e+00, -1.893e-01, -3.901e-01,  1.795e+00, -5.612e-01,  2.426e+00,
    2.135e+00, -4.560e-01,  3.528e-01, -4.202e-01, -2.046e+00,  1.560e+00, -1.085e+00,  2.905e-01,
   -7.041e-01, -7.683e-01, -7.835e-01,  7.917e-01],
  [-3.316e-01,  2.529e+00,  5.920e-01,  2.303e-01,  6.054e-01,  6.071e-01, -1.964e-01, -3.665e-01,
    4.408e-01,  7.924e-01, -2.169e+00, -6.036e-01, -1.096e+00,  2.651e-01, -1.003e+00,  3.265e+00,
    2.220e-01,  4.521e-03, -1.381e+00, -5.141e-01, -8.204e-02, -1.686e-01, -7.473e-01,  9.644e-02,
   -6.973e-01, -7.915e-01,  1.293e+00, -1.350e+00, -5.755e-01,  4.489e-01, -2.769e-01, -1.998e-02,
    3.015e-01, -7.525e-02, -8.092e-01,  3.835e-01]],

 [[ 1.371e-01, -6.843e-01,  3.643e-01, -1.172e-01,  7.707e-02, -2.465e-01, -1.262e+00,  3.615e-02,
    0.000e+00,  3.552e-01,  0.000e+00,  1.023e-02, -1.042e+00,  4.989e-01, -1.527e+00, -2.178e-01,
    6.345e-01,  5.502e-01,  1.062e+00, -1.861e-02, -2.565e-01, -2.685e-01,  2.255e-01,  2.341e-01,
    5.550e-02, -7.745e-01,  2.431e-01, -1.267e-02, -5.442e-02,  1.339e+00, -6.589e-01,  1.060e-01,
    4.901e-01, -5.219e-01, -2.049e-01,  4.844e-01],
  [ 1.224e-01,  4.482e-01,  3.355e-01, -1.740e-01, -9.952e-02, -1.597e-01, -5.609e-01,  1.411e-02,
    0.000e+00, -1.955e-02,  0.000e+00,  5.507e-01, -3.642e-01, -3.282e-01,  1.512e-01,  6.009e-02,
    1.769e-01,  9.459e-01,  4.393e-01,  1.643e+00, -2.099e-01,  8.944e-03,  1.512e-01,  2.648e-01,
    3.674e+00, -1.013e+00,  2.228e-01, -1.296e-01,  4.607e-01, -2.893e-01, -7.056e-01, -1.248e+00,
    8.656e-01, -6.241e-01, -2.189e-01,  5.355e-01],
  [-2.575e-01,  4.282e-01, -6.596e-01,  1.351e-01,  1.244e-01,  8.340e-02,  3.279e-01,  1.182e-01,
    0.000e+00,  3.031e-01,  0.000e+00, -1.890e-01,  3.540e-01,  8.424e-02, -1.464e-01, -2.545e-01,
    1.775e-01, -1.497e-01, -4.978e-01,  1.901e-01, -8.637e-01, -2.522e-01, -2.416e-01, -3.437e-02,
   -1.716e-01,  5.938e-01,  6.989e-01,  6.359e-01, -1.388e-01, -7.070e-02,  3.154e-01, -3.256e-01,
    2.785e-01, -2.000e-01, -2.233e-01, -1.501e-01]],

 [[ 1.545e-01, -9.837e-01, -5.565e-03,  4.447e-02,  3.018e-02, -2.283e-01, -5.280e-01, -1.330e-02,
    0.000e+00,  2.853e-01,  0.000e+00, -1.378e-02,  1.742e-01, -2.221e-01,  6.026e-02,  4.626e-03,
    5.711e-01, -2.406e-02,  6.849e-01, -3.225e-02, -3.877e-03, -6.237e-02, -1.751e-03,  2.141e-01,
    4.845e-01, -1.319e-01, -3.519e-02,  3.230e-02, -2.585e-02,  5.064e-01, -7.256e-01, -9.947e-02,
   -5.530e-02, -6.858e-02, -2.823e-02,  6.780e-01],
  [ 2.807e-01, -4.478e-01, -3.541e-02,  1.471e-01, -3.150e-01,  5.448e-03,  3.774e-01, -1.830e-02,
    0.000e+00, -3.466e-01,  0.000e+00,  1.170e+00, -1.007e-01, -2.158e+00, -1.954e+00,  5.451e-01,
    1.159e+00,  8.082e-02,  7.396e-02,  1.335e+00, -2.209e-01,  7.086e-01, -7.915e-01,  8.889e-01,
    3.197e+00, -5.405e-01,  2.031e-01, -1.386e-01, -4.414e-01, -2.507e-01,  2.150e-01, -4.564e-01,
   -4.619e-01, -6.627e-02, -5.196e-01, -3.917e-02],
  [-5.332e-01,  1.032e+00,  5.861e-02, -3.846e-01,  7.809e-01,  4.514e-01, -4.335e-01, -4.689e-01,
    0.000e+00,  9.233e-01,  0.000e+00, -5.988e-01, -4.971e-01, -1.366e-01, -9.226e-01,  1.274e+00,
    3.075e-01,  5.100e-01, -9.645e-01,  2.439e-01, -9.550e-01, -2.932e-01, -6.441e-01, -3.485e-01,
   -6.412e-01, -2.373e-01, -3.463e-01, -1.433e+00, -8.836e-02, -1.023e-02, -1.744e-01, -3.122e-01,
   -2.202e-01, -1.798e-01, -1.053e+00, -2.553e-01]],

 [[ 1.092e+00, -2.115e-01,  2.217e-01,  7.077e-01, -2.739e-01, -1.270e-01, -5.662e-01, -4.747e-01,
    0.000e+00, -1.885e+00, -8.927e-01, -8.016e-02,  1.438e-01, -4.196e-01, -2.019e+00,  1.005e-01,
    1.009e+00,  1.529e+00, -7.525e-01, -5.762e-01, -1.604e-01,  1.078e+00, -5.877e-01,  1.561e+00,
    1.001e-01, -1.172e+00,  1.171e-01,  6.647e-01, -6.404e-01, -8.712e-01,  4.253e-01,  2.930e-02,
   -1.003e+00,  1.335e+00, -2.242e-01,  1.111e-01],
  [ 1.241e+00,  2.744e+00,  2.970e-01,  1.880e-01, -1.198e+00, -2.523e-02, -1.902e+00, -2.282e-01,
    0.000e+00, -8.316e-01, -1.476e+00,  1.321e+00, -9.939e-01,  8.244e-01, -3.393e+00,  1.163e+00,
    2.731e+00,  2.510e+00, -1.921e+00,  1.098e+00, -4.769e-01,  1.251e+00, -5.137e-01,  2.436e+00,
    1.906e+00, -1.002e+00,  7.215e-01, -7.466e-01, -2.253e+00,  1.313e+00, -3.138e-01,  2.266e+00,
   -9.441e-01, -5.693e-01, -9.121e-01,  5.195e-02],
  [ 7.148e-01,  1.917e+00,  2.951e+00, -3.851e-01,  6.364e-01,  2.178e-01, -3.544e-01, -7.966e-01,
    0.000e+00,  6.255e-01, -1.586e+00, -1.356e-01, -1.246e+00,  1.032e+00, -1.401e+00,  2.169e+00,
    6.363e-01,  1.607e-01, -1.543e+00, -1.479e-01,  8.897e-01, -3.430e-01, -4.029e-01, -6.349e-01,
   -8.290e-02, -1.186e+00,  1.097e+00, -1.235e+00, -3.226e-01,  1.201e+00,  4.368e-01,  1.624e-01,
   -6.845e-01, -4.029e-01, -1.479e+00, -4.095e-01]]]
)  # fmt: skip
