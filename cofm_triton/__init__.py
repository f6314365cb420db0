"""Stable recurrent networks, fast: parallel-scan-friendly recurrences and memory/stability sweeps."""

from cofm_triton import targets
from cofm_triton._version import __version__
from cofm_triton.block import ResidualBlock, ResidualStack
from cofm_triton.functional import dense_rnn, linear_scan, rnn_scan
from cofm_triton.layers import RNNFunctional, StableRNN
from cofm_triton.loss import temporal_weights, temporally_weighted_mse
from cofm_triton.memory import MemoryFunction, memory_function
from cofm_triton.memory_sweep import MemorySweep, memory_sweep
from cofm_triton.ops.backends import SlowBackendWarning
from cofm_triton.parameter_groups import parameter_groups
from cofm_triton.parameterization import PARAMETERIZATIONS, parameterization
from cofm_triton.perturbation import PerturbationCurve, perturbation_error
from cofm_triton.verdict import StabilityVerdict, stability_verdict

__all__ = [
    "PARAMETERIZATIONS",
    "MemoryFunction",
    "MemorySweep",
    "PerturbationCurve",
    "RNNFunctional",
    "ResidualBlock",
    "ResidualStack",
    "SlowBackendWarning",
    "StabilityVerdict",
    "StableRNN",
    "__version__",
    "dense_rnn",
    "linear_scan",
    "memory_function",
    "memory_sweep",
    "parameter_groups",
    "parameterization",
    "perturbation_error",
    "rnn_scan",
    "stability_verdict",
    "targets",
    "temporal_weights",
    "temporally_weighted_mse",
]
