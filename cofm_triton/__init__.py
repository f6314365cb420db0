"""Stable recurrent networks, fast: parallel-scan-friendly recurrences and memory/stability sweeps."""

from cofm_triton import targets
from cofm_triton._version import __version__
from cofm_triton.functional import linear_scan, rnn_scan
from cofm_triton.layers import RNNFunctional, StableRNN
from cofm_triton.loss import temporal_weights, temporally_weighted_mse
from cofm_triton.parameterization import PARAMETERIZATIONS, parameterization

__all__ = [
    "PARAMETERIZATIONS",
    "RNNFunctional",
    "StableRNN",
    "__version__",
    "linear_scan",
    "parameterization",
    "rnn_scan",
    "targets",
    "temporal_weights",
    "temporally_weighted_mse",
]
