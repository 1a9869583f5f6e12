"""What is fitted about balanced pods: `fit_balanced` plays stations, fits, and rewrites the arrays of this module.

Logarithms of mean wait and of the variance of the time in a pod, and the skewness of that time, are corrected by sums of
products of bounded features. So are the scale and the sharpness of the bend where overloaded pods go from what can be
answered in time to their room.
"""

from __future__ import annotations

import numpy as np

from sim_core.compiled import kernel

TERMS, REACH_TERMS = 30, 15


@kernel
def take_terms(terms, waiting, uneven, held, few, together, full, servers, nodes, load, buffer, lost):
    """Sets the products that corrections are sums of.

    Args:
        terms: TERMS numbers.
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
    terms[0] = 1.0
    terms[1] = waiting
    terms[2] = uneven
    terms[3] = held
    terms[4] = few
    terms[5] = together
    terms[6] = full
    terms[7] = servers
    terms[8] = nodes
    terms[9] = load
    terms[10] = buffer
    terms[11] = lost
    terms[12] = waiting * full * servers
    terms[13] = uneven * full * load
    terms[14] = held * few * full
    terms[15] = uneven * full * servers
    terms[16] = waiting * waiting * waiting
    terms[17] = waiting * together * load
    terms[18] = uneven * load * load
    terms[19] = waiting * uneven * held
    terms[20] = uneven * uneven
    terms[21] = waiting * held * few
    terms[22] = waiting * full * full
    terms[23] = held * held * together
    terms[24] = waiting * held * held
    terms[25] = uneven * load * lost
    terms[26] = load * load * load
    terms[27] = together * full
    terms[28] = waiting * held * servers
    terms[29] = full * full * full


@kernel
def correction(group, terms):
    """Additions to the logarithms of wait and variance, and to the skewness.

    Args:
        group: sharing of the CPU, and 3 more for two choices.
    """
    on_wait = on_variance = on_skewness = 0.0
    for m in range(TERMS):
        on_wait += terms[m] * TABLE[group, 0, m]
        on_variance += terms[m] * TABLE[group, 1, m]
        on_skewness += terms[m] * TABLE[group, 2, m]
    return max(-1.5, min(1.5, on_wait)), max(-1.5, min(1.5, on_variance)), max(-5.0, min(5.0, on_skewness))


@kernel
def take_reach_terms(terms, uneven, few, over, shared, small):
    """Sets the products that `reach` sums.

    Args:
        terms: REACH_TERMS numbers.
        over: utilization beyond 1, at most 0.6.
        shared: part of a pod's calls that share its CPU; 0 where they are served one by one.
        small: 1 / sqrt(room).
    """
    small -= 0.1118  # of production
    terms[0], terms[1], terms[2], terms[3], terms[4], terms[5] = 1.0, uneven, few, over, shared, small
    terms[6], terms[7], terms[8] = uneven * uneven, few * few, over * over
    terms[9], terms[10], terms[11] = uneven * few, uneven * over, few * over
    terms[12], terms[13], terms[14] = shared * few, shared * over, shared * uneven


@kernel
def reach(group, terms):
    """Logarithms of scale and power of the smooth minimum of the room and what is answered in time.

    Args:
        group: 0, 1 where CPUs are shared, and 2 more for two choices.
    """
    scale = power = 0.0
    for m in range(REACH_TERMS):
        scale += terms[m] * REACH[group, 0, m]
        power += terms[m] * REACH[group, 1, m]
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
[[[ 2.981e-02, -1.041e+00,  5.014e-01,  4.244e-01,  4.380e-01,  3.644e-04,  8.342e-02, -2.909e-02,
   -7.100e-03, -4.678e-01,  0.000e+00,  1.053e-01, -4.768e-01,  1.213e-01, -6.398e-01, -1.417e-01,
   -6.061e-02,  3.762e-01, -7.046e-01,  5.664e-01, -2.500e-01, -1.982e-02,  1.717e-01, -5.285e-01,
    9.965e-02, -1.283e-01,  8.727e-01, -2.198e-01,  9.263e-02, -7.761e-02],
  [-1.469e-02, -3.566e-01,  1.463e-01, -1.013e-02,  2.801e-01,  5.094e-03,  2.643e-01, -2.913e-02,
    2.017e-02,  9.110e-02,  0.000e+00,  2.960e+00, -3.233e-01, -4.107e-01, -2.626e-01,  1.613e+00,
   -1.848e-01,  3.967e-01,  8.595e-03,  5.820e-01, -1.554e-01,  1.840e-01,  7.862e-01, -4.441e-01,
    4.079e-01, -1.474e+00, -1.120e-01, -8.017e-01,  3.718e-01, -1.062e-01],
  [-3.951e-01,  4.093e-01, -1.018e+00, -8.879e-02, -2.665e-02,  1.819e-01,  5.188e-01, -6.907e-02,
    1.433e-01,  2.798e-01,  0.000e+00, -2.498e-02,  3.259e-01, -3.585e-01,  6.441e-02,  7.053e-01,
   -3.745e-01, -1.938e-01,  8.315e-01,  4.331e-01, -5.276e-01, -1.892e-01, -9.379e-02, -2.181e-02,
    2.138e-01, -1.105e+00,  1.667e-02, -1.616e-02,  2.956e-01, -3.959e-01]],

 [[ 1.294e-01, -3.213e-01,  5.700e-03, -2.863e-02, -1.849e-01,  1.377e-01, -2.509e-01, -1.216e-02,
   -1.383e-02, -2.281e-02,  0.000e+00,  5.680e-01, -2.907e-02,  2.267e-01, -4.963e-01,  3.522e-01,
    2.351e-01, -3.334e-01, -1.307e-01,  6.655e-02,  6.990e-02,  1.198e+00,  1.412e-01, -6.176e-01,
   -1.916e-01,  1.616e+00,  8.982e-02,  4.171e-01, -3.733e-02, -2.954e-02],
  [ 1.498e-01, -5.048e-01, -1.448e-01, -8.200e-02,  8.969e-02, -4.002e-02,  1.501e-01, -8.781e-02,
    7.188e-03, -5.995e-02,  0.000e+00,  1.656e+00, -2.485e+00, -1.058e-01, -1.192e+00, -1.256e-01,
    1.426e-01,  5.353e-01,  4.619e-01, -7.470e-01, -1.062e-01,  1.461e+00, -4.134e-01, -4.277e-01,
   -4.523e-01,  2.923e+00, -2.871e-02, -5.966e-01,  1.113e-01,  6.492e-01],
  [-5.322e-01,  1.617e+00, -7.039e-01, -8.464e-02,  3.420e-01,  2.628e-01, -1.041e+00, -2.362e-01,
   -2.392e-01,  6.817e-01,  0.000e+00, -1.004e+00, -2.974e-01, -7.657e-01, -1.329e+00, -3.988e-01,
   -8.728e-01,  8.893e-01,  8.090e-01, -1.039e+00, -2.450e+00,  2.889e-01, -6.534e-02, -2.513e-02,
   -6.752e-01, -3.469e-01, -4.855e-01, -1.343e+00, -1.891e-01,  1.130e+00]],

 [[ 4.991e-01, -4.370e-01,  4.636e-01,  6.721e-01,  8.472e-01, -1.634e-01, -3.792e-01, -4.554e-01,
    1.391e-01, -1.129e+00, -5.871e-01, -3.144e-01, -2.504e-02,  2.962e-01, -8.750e-01, -1.273e-01,
   -1.946e+00,  2.044e+00, -8.935e-01,  6.618e-01, -1.094e-02, -5.384e-02,  5.290e-01, -1.073e+00,
    1.397e+00,  2.234e-01,  5.616e-01,  1.327e-01,  5.667e-01, -2.637e-01],
  [ 1.276e-01,  1.602e+00, -4.723e-02,  2.297e-01,  1.271e-01,  1.239e-01,  3.652e-01, -1.637e-01,
    1.412e-01,  7.170e-01, -9.773e-01,  1.816e+00,  3.736e-01, -1.008e+00, -1.923e+00, -3.317e-01,
   -2.272e+00,  1.124e+00,  7.345e-01,  2.636e-01, -1.698e-01,  2.357e+00,  3.792e+00, -8.730e-01,
    4.442e-02, -4.011e-02, -1.162e+00, -1.432e+00, -1.712e+00, -1.087e+00],
  [-2.838e-01,  2.227e+00,  2.757e-01,  1.769e-01,  3.110e-01,  7.206e-01, -2.897e-01, -3.455e-01,
    4.625e-01,  9.427e-01, -2.093e+00, -9.159e-01,  2.603e-01, -1.769e+00, -4.742e-01, -5.497e-01,
   -1.289e+00,  9.033e-01,  3.298e+00,  9.555e-02,  9.776e-01, -2.726e-01,  1.911e-01, -3.771e-01,
   -7.603e-03,  6.583e-02, -4.042e-01, -4.980e-01, -6.146e-01,  1.190e-01]],

 [[ 1.224e-01, -2.852e-01,  4.465e-01, -1.578e-01,  1.200e-01, -3.104e-02, -4.174e-01,  2.245e-02,
    0.000e+00,  1.229e-01,  0.000e+00,  2.337e-02,  2.011e-01, -6.400e-01,  2.670e-01, -3.971e-01,
    7.516e-01, -3.692e-01, -3.105e-01, -2.661e-01, -2.038e-01,  3.836e-01,  1.073e+00,  3.461e-02,
   -8.685e-02,  2.366e-01, -3.046e-01, -9.354e-01, -4.956e-03,  5.023e-01],
  [ 7.875e-02,  2.566e-01,  4.137e-01, -1.576e-01,  2.957e-02,  4.438e-02, -2.584e-01,  8.310e-03,
    0.000e+00, -9.178e-02,  0.000e+00,  3.494e+00, -3.351e-01, -4.642e-01,  1.954e-01,  1.412e+00,
   -1.358e-03, -2.241e-01,  5.538e-02, -9.531e-02, -7.732e-02,  1.072e-01,  8.278e-01, -2.090e-01,
    2.712e-01, -6.854e-01, -1.477e-01, -3.602e-01,  4.164e-01, -2.147e-02],
  [-7.853e-02,  2.933e-01, -3.484e-01,  3.731e-02, -1.357e-01,  8.018e-02,  4.833e-01,  9.834e-02,
    0.000e+00,  1.157e-01,  0.000e+00, -2.759e-01,  7.801e-02,  5.962e-01, -1.932e-01,  9.672e-02,
   -2.525e-01,  2.078e-01, -3.698e-01,  1.921e-01, -3.455e-01,  1.832e-01, -1.638e-01, -1.981e-01,
    1.141e-01, -2.780e-01, -2.829e-01, -9.097e-02, -1.860e-01, -2.094e-01]],

 [[ 8.299e-02, -6.341e-01, -1.086e-02, -3.339e-02,  5.026e-02,  3.635e-02, -4.959e-01,  4.895e-02,
    0.000e+00,  3.040e-01,  0.000e+00,  5.019e-02, -1.305e-01,  2.508e-01,  7.797e-02, -7.869e-02,
    6.853e-01, -3.034e-01, -3.479e-02,  9.115e-02, -3.688e-02,  6.682e-01,  3.594e-02, -3.612e-01,
   -9.196e-02,  8.218e-02, -1.835e-01,  5.135e-01, -1.309e-01,  4.470e-02],
  [ 1.283e-01, -3.961e-01, -1.594e-01,  9.450e-02,  1.211e-01, -3.592e-02,  3.708e-01,  6.415e-02,
    0.000e+00, -6.061e-02,  0.000e+00,  3.550e+00, -2.181e+00, -7.141e-03, -1.324e+00,  1.155e+00,
    2.847e-01,  4.861e-01,  3.745e-01, -2.362e-01, -7.424e-02,  1.251e+00, -6.723e-01, -5.348e-01,
   -3.806e-01, -5.848e-01, -3.038e-01, -3.697e-01, -5.804e-01,  5.944e-01],
  [-4.588e-01,  9.448e-01, -2.349e-01,  6.573e-02,  5.278e-01,  2.202e-01, -5.241e-01, -4.446e-01,
    0.000e+00,  7.051e-01,  0.000e+00, -9.082e-01, -1.625e-01, -8.496e-01, -9.164e-01,  2.038e-01,
   -9.535e-01,  2.167e-01,  1.376e+00, -1.079e+00, -1.010e+00,  2.512e-02,  1.076e-01, -3.880e-01,
   -4.377e-01, -2.613e-01, -2.750e-01, -3.902e-01, -1.133e-01,  5.305e-01]],

 [[ 7.491e-01,  7.207e-01, -2.587e-01,  5.899e-01,  5.292e-01, -7.813e-02, -3.344e-01, -4.880e-01,
    0.000e+00, -1.330e+00, -5.830e-01,  5.778e-01, -2.496e-01, -1.266e-01,  9.757e-02, -4.906e-01,
   -1.460e+00,  8.451e-01,  9.076e-02,  1.615e-01,  1.230e-01,  1.815e+00,  1.183e+00, -1.057e+00,
   -1.664e-01, -1.377e-01,  3.740e-01, -2.081e+00, -5.504e-01,  1.254e+00],
  [ 6.404e-01,  3.149e+00, -2.757e-01, -2.395e-02,  3.289e-01, -1.037e-01, -3.721e-01, -1.778e-01,
    0.000e+00,  1.807e-02, -1.058e+00,  2.954e+00,  6.718e-01, -8.506e-01, -2.033e+00,  1.032e+00,
   -2.580e+00,  7.648e-01,  1.344e+00, -1.227e+00,  7.679e-02,  1.542e+00,  1.693e+00, -2.656e-01,
    1.159e-01,  2.429e+00, -1.514e+00, -5.461e-01, -2.024e+00,  9.388e-01],
  [ 4.754e-01,  2.112e+00,  2.063e+00,  7.321e-02,  6.927e-01,  1.960e-01, -6.946e-02, -7.647e-01,
    0.000e+00,  7.570e-01, -1.626e+00, -5.368e-02,  9.634e-01, -5.893e-01, -8.034e-01, -1.130e-01,
   -1.405e+00,  3.722e-01,  1.587e+00, -1.711e+00,  1.531e+00, -9.610e-01,  8.721e-01,  1.831e-01,
   -3.217e-01,  1.784e-01, -1.018e+00,  1.774e-01, -2.153e-01, -1.817e-01]]]
)  # fmt: skip
